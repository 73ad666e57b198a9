"""Wrong: attention with a mask: causal, but quadratic.

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
        scores = self.proj(x) @ x.transpose(1, 2) * x.shape[-1] ** -0.5
        position = torch.arange(x.shape[1], device=x.device)
        scores = scores.masked_fill(position > position[:, None], float("-inf"))
        return scores.softmax(-1) @ x
