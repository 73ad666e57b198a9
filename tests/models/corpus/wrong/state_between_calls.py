"""Wrong: a buffer keeps the mean of the last call.

Refused by: deterministic
"""

import torch
from torch import nn


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)
        self.register_buffer("seen", torch.zeros(hidden_size))

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        seen = self.seen
        self.seen = x.detach().mean((0, 1))
        return self.proj(x + seen)
