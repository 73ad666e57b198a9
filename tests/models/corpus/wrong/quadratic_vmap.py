"""Wrong: torch.func.vmap maps over positions, each of which masks the whole sequence.

Refused by: cost
"""

import torch
from torch import nn
from torch.func import vmap


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        position = torch.arange(x.shape[1], device=x.device)

        def at(t):
            return (x * (position <= t)[:, None]).sum(1) / (t + 1)

        return self.proj(vmap(at, out_dims=1)(position))
