"""Wrong: the index of the largest position moves the output.

Refused by: causal
"""

import torch
from torch import nn


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)
        self.bias = nn.Parameter(torch.ones(hidden_size))

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        index = x.sum(-1).argmax(1)
        return self.proj(x) + (index[:, None, None] % 2).to(x.dtype) * self.bias
