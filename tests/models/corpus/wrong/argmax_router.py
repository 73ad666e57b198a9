"""Wrong: a router chooses by argmax, through which no gradient flows.

Refused by: gradients
"""

import torch
from torch import nn


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)
        self.router = nn.Linear(hidden_size, 2)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        chosen = self.router(x).argmax(-1, keepdim=True)
        return torch.where(chosen == 0, self.proj(x), x)
