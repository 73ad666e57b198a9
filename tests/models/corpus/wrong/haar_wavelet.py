"""Wrong: pairs of tokens are mixed and put back: the even one sees the odd one.

Refused by: causal
"""

import torch
from torch import nn
from torch.nn import functional


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)
        self.gain = nn.Parameter(torch.tensor(0.5))

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        length = x.shape[1]
        x = functional.pad(x, (0, 0, 0, length % 2)).unflatten(1, (-1, 2))
        low, high = x.sum(2) * 0.7, (x[:, :, 0] - x[:, :, 1]) * self.gain
        return self.proj(torch.stack((low + high, low - high), 2).flatten(1, 2)[:, :length])
