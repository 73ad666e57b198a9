"""Honest: each sample skips the layer at random, by a mask over the batch."""

import torch
from torch import nn


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        y = self.proj(x)
        if self.training:
            y = y * (torch.rand(x.shape[0], 1, 1, device=x.device) > 0.1).to(x.dtype)
        return y
