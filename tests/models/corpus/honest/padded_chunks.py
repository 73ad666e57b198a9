"""Honest: chunks of 64, padded with zeros, with a state between them."""

import torch
from torch import nn
from torch.nn import functional


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        batch, length, width = x.shape
        x = functional.pad(self.proj(x), (0, 0, 0, -length % 64)).unflatten(1, (-1, 64)) * width**-0.5
        state = x.new_zeros(batch, width, width)
        outputs = []
        for chunk in x.unbind(1):
            inside = (chunk @ chunk.transpose(1, 2)).tril() @ chunk
            outputs.append(inside + chunk @ state)
            state = 0.9 * state + chunk.transpose(1, 2) @ chunk
        return torch.cat(outputs, 1)[:, :length]
