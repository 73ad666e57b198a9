"""Honest: a gate rounded to 0 or 1, with the gradient of the gate."""

import torch
from torch import nn


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)
        self.gate = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        soft = torch.sigmoid(self.gate(x))
        hard = (soft > 0.5).to(x.dtype)
        return self.proj(x) * (hard - soft.detach() + soft)
