"""Wrong: chunks whose size grows with the length, masked inside.

Refused by: cost, prefix
"""

import torch
from torch import nn


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        size = max(1, x.shape[1] // 8)
        outputs = []
        for chunk in x.split(size, 1):
            outputs.append((chunk @ chunk.transpose(1, 2) / x.shape[-1]).tril() @ chunk)
        return self.proj(torch.cat(outputs, 1))
