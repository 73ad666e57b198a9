"""Wrong: a single channel of 64 carries the next token's first channel.

Refused by: causal
"""

import torch
from torch import nn
from torch.nn import functional


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        ahead = functional.pad(x[:, 1:, :1], (0, 0, 0, 1))
        return torch.cat((ahead, self.proj(x)[..., 1:]), -1)
