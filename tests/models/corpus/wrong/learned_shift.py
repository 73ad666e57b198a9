"""Wrong: a shift over time that starts at 0 and may turn negative.

Refused by: causal
"""

import torch
from torch import nn
from torch.nn import functional


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)
        self.shift = nn.Parameter(torch.full((hidden_size,), 0.5))

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        back, ahead = functional.pad(x, (0, 0, 1, 0))[:, :-1], functional.pad(x, (0, 0, 0, 1))[:, 1:]
        return self.proj(x + self.shift.relu() * back + (-self.shift).relu() * ahead)
