"""Wrong: the causal mask is a buffer of 256 positions; beyond it everything is seen.

Refused by: causal
"""

import torch
from torch import nn


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)
        self.register_buffer("hidden", torch.ones(256, 256, dtype=torch.bool).triu(1))

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        length = x.shape[1]
        scores = self.proj(x) @ x.transpose(1, 2) * x.shape[-1] ** -0.5
        size = min(length, 256)
        hidden = torch.zeros(length, length, dtype=torch.bool, device=x.device)
        hidden[:size, :size] = self.hidden[:size, :size]
        return scores.masked_fill(hidden, float("-inf")).softmax(-1) @ x
