"""Wrong: an index of all pairs is gathered from a small table.

Refused by: cost
"""

import torch
from torch import nn


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)
        self.table = nn.Parameter(torch.randn(64) * 0.1)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        position = torch.arange(x.shape[1], device=x.device)
        bias = self.table[(position[:, None] - position).clamp(0, 63)]
        return self.proj(x) + (bias.tril().sum(1) / (position + 1))[:, None]
