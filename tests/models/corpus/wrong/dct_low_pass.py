"""Wrong: a low pass over time by a matrix of cosines.

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
        length = x.shape[1]
        time = torch.arange(length, device=x.device, dtype=x.dtype)
        basis = torch.cos(torch.pi * (time[:, None] + 0.5) * torch.arange(8, device=x.device) / length)
        return self.proj(x + basis @ (basis.T @ x) / length)
