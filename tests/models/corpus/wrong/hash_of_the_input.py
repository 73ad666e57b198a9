"""Wrong: a hash of all values picks one of 16 biases.

Refused by: causal
"""

import torch
from torch import nn


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)
        self.bias = nn.Parameter(torch.randn(16, hidden_size) * 0.1)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        index = (x.sum((1, 2)) * 1000).long() % 16
        return self.proj(x) + self.bias[index][:, None]
