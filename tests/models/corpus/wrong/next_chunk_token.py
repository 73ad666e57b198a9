"""Wrong: each chunk of 32 is given the first token of the chunk after it.

Refused by: causal
"""

import torch
from torch import nn


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        chunks = x.split(32, 1)
        ahead = [c[:, :1] for c in chunks[1:]] + [torch.zeros_like(x[:, :1])]
        return self.proj(torch.cat([c + a for c, a in zip(chunks, ahead, strict=True)], 1))
