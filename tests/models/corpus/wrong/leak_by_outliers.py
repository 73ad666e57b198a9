"""Wrong: the sequence is clamped by its largest value, where that is an outlier.

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
        largest = x.abs().amax((1, 2), keepdim=True)
        return self.proj(x / torch.clamp(largest / 10, min=1.0))
