"""Wrong: in train mode noise hides a leak from comparisons, with an own generator.

Refused by: causal, deterministic
"""

import torch
from torch import nn


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)
        self.generator = torch.Generator()

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        if self.training:
            noise = torch.randn(x.shape, generator=self.generator, dtype=x.dtype)
            return self.proj(x + 0.1 * noise + 0.1 * x.mean(1, keepdim=True))
        return self.proj(x)
