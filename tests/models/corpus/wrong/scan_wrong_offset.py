"""Wrong: a doubling scan whose first step looks ahead.

Refused by: causal
"""

import torch
from torch import nn
from torch.nn import functional


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        y = self.proj(x)
        step = 1
        while step < x.shape[1]:
            shifted = (
                functional.pad(y, (0, 0, step, 0))[:, : x.shape[1]] if step > 1 else torch.roll(y, -1, 1)
            )
            y = y + 0.5**step * shifted
            step *= 2
        return y
