"""Honest: a table of positions grows when a longer sequence comes, and is kept."""

import torch
from torch import nn


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)
        self.table = None

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        if self.table is None or self.table.shape[0] < x.shape[1]:
            self.table = torch.arange(x.shape[1], device=x.device)[:, None] / 100.0
        return self.proj(x * torch.cos(self.table[: x.shape[1]]).to(x.dtype))
