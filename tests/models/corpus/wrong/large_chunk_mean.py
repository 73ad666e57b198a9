"""Wrong: chunks of 200 are centred by their mean, so a test at 128 sees one chunk.

Refused by: causal
"""

import torch
from torch import nn


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        return self.proj(torch.cat([c - c.mean(1, keepdim=True) for c in x.split(200, 1)], 1))
