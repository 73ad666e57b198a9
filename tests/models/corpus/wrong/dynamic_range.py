"""Wrong: values are quantised with the range of the whole sequence, straight-through.

Refused by: causal
"""

from torch import nn


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        step = x.abs().amax((1, 2), keepdim=True) / 7
        rounded = (x / step).round() * step
        return self.proj(x + (rounded - x).detach())
