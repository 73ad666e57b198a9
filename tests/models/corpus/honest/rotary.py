"""Honest: rotary positions in a local attention."""

import torch
from torch import nn
from torch.nn import functional


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        half = x.shape[-1] // 2
        frequency = 10000.0 ** (-torch.arange(half, device=x.device) / half)
        angle = torch.arange(x.shape[1], device=x.device)[:, None] * frequency
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        first, second = self.proj(x).split(half, -1)
        turned = torch.cat((first * cos - second * sin, first * sin + second * cos), -1)
        before = functional.pad(turned, (0, 0, 1, 0))[:, :-1]
        return turned * before + x
