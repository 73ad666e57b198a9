"""Honest: softmax attention in chunks of 48, with the mask as a large negative number."""

import torch
from torch import nn


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        outputs = []
        for chunk in x.split(48, 1):
            position = torch.arange(chunk.shape[1], device=x.device)
            scores = self.proj(chunk) @ chunk.transpose(1, 2) * x.shape[-1] ** -0.5
            scores = scores.masked_fill(position > position[:, None], -1e9)
            outputs.append(scores.softmax(-1) @ chunk)
        return torch.cat(outputs, 1)
