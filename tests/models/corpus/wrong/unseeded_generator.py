"""Wrong: an own generator gives another random matrix in each mixer.

Refused by: deterministic
"""

import torch
from torch import nn


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)
        generator = torch.Generator()
        generator.seed()
        self.register_buffer("matrix", torch.randn(hidden_size, hidden_size, generator=generator) / 8)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        return self.proj(x @ self.matrix)
