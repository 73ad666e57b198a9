"""Honest: chunks of the root of a power of two: length to the power of 1.5."""

import torch
from torch import nn


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        outputs = []
        for chunk in x.split(32, 1):
            outputs.append((chunk @ chunk.transpose(1, 2)).tril() @ chunk / 32)
        return self.proj(torch.cat(outputs, 1))
