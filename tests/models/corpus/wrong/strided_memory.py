"""Wrong: every 10th position is a summary of the ten after it, and is read by all later ones.

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
        length = x.shape[1]
        padded = functional.pad(x, (0, 0, 0, -length % 10)).unflatten(1, (-1, 10))
        summary = padded.mean(2, keepdim=True).expand_as(padded).flatten(1, 2)[:, :length]
        first = (torch.arange(length, device=x.device) % 10 == 0)[:, None].to(x.dtype)
        return self.proj(x + first * summary)
