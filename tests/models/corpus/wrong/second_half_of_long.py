"""Wrong: past position 180 a block of 90 sees itself whole.

Refused by: causal
"""

import torch
from torch import nn


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        parts = x.split(90, 1)
        return self.proj(torch.cat([*parts[:2], *(p + p.mean(1, keepdim=True) for p in parts[2:])], 1))
