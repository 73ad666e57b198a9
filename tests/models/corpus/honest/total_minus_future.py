"""Honest: the past as the total minus the future: causal but for rounding."""

from torch import nn


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        return self.proj(x.sum(1, keepdim=True) - x.flip(1).cumsum(1).flip(1) + x) / x.shape[-1] ** 0.5
