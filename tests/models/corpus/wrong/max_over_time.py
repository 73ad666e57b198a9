"""Wrong: the scores' maximum over all positions is subtracted, and does not cancel.

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
        weight = torch.exp(self.proj(x) - self.proj(x).amax(1, keepdim=True))
        return (weight * x).cumsum(1) / (weight.cumsum(1) + 1e-3)
