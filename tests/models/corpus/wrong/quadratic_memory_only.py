"""Wrong: only a boolean mask of length by length is made, and reduced at once.

Refused by: cost
"""

import torch
from torch import nn


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        position = torch.arange(x.shape[1], device=x.device)
        count = (position <= position[:, None]).sum(1)
        return self.proj(x.cumsum(1) / count[:, None])
