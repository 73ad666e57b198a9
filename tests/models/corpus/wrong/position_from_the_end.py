"""Wrong: positions are counted from the end.

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
        left = torch.arange(x.shape[1], 0, -1, device=x.device, dtype=x.dtype)
        return self.proj(x * torch.exp(-left / 100)[:, None])
