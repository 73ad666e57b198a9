"""Wrong: a parameter is made by the first call, after the optimizer took its list.

Refused by: construct, forward_backward
"""

import torch
from torch import nn


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)
        self.register_parameter("scale", None)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        if self.scale is None:
            self.scale = nn.Parameter(torch.ones(x.shape[-1], dtype=x.dtype))
        return self.proj(x) * self.scale
