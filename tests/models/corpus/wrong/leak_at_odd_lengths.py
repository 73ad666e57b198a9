"""Wrong: odd lengths are padded with their own last token, at the front.

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
        length = x.shape[1]
        if length % 2:
            x = torch.cat((x[:, -1:], x), 1)
        return self.proj(x.cumsum(1)[:, -length:]) / x.shape[-1] ** 0.5
