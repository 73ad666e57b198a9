"""Wrong: a table of 128 positions, and no more.

Refused by: forward_backward
"""

import torch
from torch import nn


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)
        self.table = nn.Parameter(torch.randn(128, hidden_size))

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        return self.proj(x + self.table[: x.shape[1]])
