"""Wrong: the length is cut into four chunks, whose states are reset.

Refused by: prefix
"""

import torch
from torch import nn


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        return self.proj(torch.cat([c.cumsum(1) for c in x.chunk(4, 1)], 1)) / x.shape[-1] ** 0.5
