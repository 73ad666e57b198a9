"""Wrong: the path for bfloat16 forgets the mask.

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
        scores = self.proj(x) @ x.transpose(1, 2) / x.shape[-1]
        if x.dtype != torch.bfloat16:
            scores = scores.tril()
        return scores @ x
