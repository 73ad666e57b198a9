"""Wrong: one of the heads reads a state that is not shifted.

Refused by: causal
"""

import torch
from torch import nn


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)
        self.heads = num_heads

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        q, v = self.proj(x).unflatten(-1, (self.heads, -1)), x.unflatten(-1, (self.heads, -1))
        past = (q * v).cumsum(1) / 8
        whole = (q * v).mean(1, keepdim=True).expand_as(past)
        return torch.cat((past[:, :, 1:], whole[:, :, :1]), 2).flatten(2)
