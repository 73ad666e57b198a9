"""Wrong: each chunk of 16 reads the state that already holds the chunk itself.

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
        state = x.new_zeros(x.shape[0], x.shape[2], x.shape[2])
        outputs = []
        for chunk in self.proj(x).split(16, 1):
            state = state + chunk.transpose(1, 2) @ chunk / x.shape[-1]
            outputs.append(chunk @ state)
        return torch.cat(outputs, 1)
