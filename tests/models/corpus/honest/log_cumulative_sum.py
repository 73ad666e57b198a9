"""Honest: a running softmax in log space."""

import torch
from torch import nn


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)
        self.score = nn.Linear(hidden_size, 1)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        score = self.score(x)
        return self.proj(torch.exp((score + x).clamp(max=20).logcumsumexp(1) - score.logcumsumexp(1)))
