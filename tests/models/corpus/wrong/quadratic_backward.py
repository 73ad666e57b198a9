"""Wrong: the backward pass of an own autograd function is quadratic.

Refused by: cost
"""

import torch
from torch import nn


class SlowSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.cumsum(1)

    @staticmethod
    def backward(ctx, gradient):
        ones = gradient.new_ones(gradient.shape[1], gradient.shape[1])
        return ones.triu() @ gradient


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        return self.proj(SlowSum.apply(x)) / x.shape[-1] ** 0.5
