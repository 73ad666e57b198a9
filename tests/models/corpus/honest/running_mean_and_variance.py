"""Honest: statistics over time, of the past alone."""

import torch
from torch import nn


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        count = torch.arange(1, x.shape[1] + 1, device=x.device, dtype=x.dtype)[:, None]
        mean = x.cumsum(1) / count
        variance = (x.square().cumsum(1) / count - mean.square()).clamp(min=0)
        return self.proj((x - mean) * torch.rsqrt(variance + 1e-2))
