"""Wrong: gates below the sequence's 90th percentile are closed.

Refused by: causal
"""

import torch
from torch import nn


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)
        self.gate = nn.Linear(hidden_size, 1)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        gate = torch.sigmoid(self.gate(x))
        return self.proj(x) * gate * (gate >= gate.quantile(0.9, dim=1, keepdim=True)).to(x.dtype)
