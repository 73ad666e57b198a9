"""Wrong: a hook keeps the gradient of the last backward pass, which knows the targets.

Refused by: deterministic
"""

import torch
from torch import nn


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)
        self.last = torch.zeros(hidden_size)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        if x.requires_grad:
            x.register_hook(self.keep)
        return self.proj(x + self.last)

    def keep(self, gradient):
        self.last = gradient.mean((0, 1)).detach()
