"""Wrong: positions of a chunk of 64 attend to each other without a mask.

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
        outputs = []
        for chunk in x.split(64, 1):
            scores = chunk @ chunk.transpose(1, 2) / x.shape[-1]
            outputs.append(scores.softmax(-1) @ chunk)
        return self.proj(torch.cat(outputs, 1))
