"""Wrong: positions that are all zero count as padding, and set the length that divides.

Refused by: causal, prefix
"""

from torch import nn


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        length = (x.abs().sum(-1) > 0).sum(1)[:, None, None]
        return self.proj(x.cumsum(1) / length)
