"""Wrong: a Toeplitz matrix of a decay is multiplied, with a linear part that is larger at short lengths.

Refused by: cost
"""

import torch
from torch import nn


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)
        self.wide = nn.Linear(hidden_size, 4 * hidden_size)
        self.decay = nn.Parameter(torch.tensor(0.3))

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        position = torch.arange(x.shape[1], device=x.device)
        distance = position[:, None] - position
        matrix = torch.where(distance >= 0, torch.exp(-self.decay.abs() * distance.clamp(min=0)), 0.0).to(
            x.dtype
        )
        return self.proj(self.wide(x).relu() @ self.wide.weight) + matrix @ x
