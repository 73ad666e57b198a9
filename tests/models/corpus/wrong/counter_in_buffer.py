"""Wrong: a buffer counts the calls and opens a gate slowly.

Refused by: deterministic
"""

import torch
from torch import nn


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        self.calls += 1
        return self.proj(x) + 1e-9 * self.calls * x.mean(1, keepdim=True)
