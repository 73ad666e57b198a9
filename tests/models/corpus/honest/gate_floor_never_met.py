"""Honest: shares of a softmax are held above a learned floor, which none of them is near at the start."""

import torch
from torch import nn


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.paths = nn.ModuleList(nn.Linear(hidden_size, hidden_size) for _ in range(3))
        self.share = nn.Linear(hidden_size, 3)
        self.floor = nn.Parameter(torch.full((3,), -3.0))

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        shares = torch.softmax(self.share(x), -1).clamp(min=0.1 * torch.sigmoid(self.floor))
        shares = shares / shares.sum(-1, keepdim=True)
        return sum(path(x) * share for path, share in zip(self.paths, shares.split(1, -1), strict=True))
