"""Wrong: a global dictionary keeps the last input of each shape.

Refused by: deterministic
"""

import torch
from torch import nn

CACHE = {}


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        last = CACHE.get(x.shape, torch.zeros_like(x))
        CACHE[x.shape] = x.detach()
        return self.proj(x + 0.1 * last)
