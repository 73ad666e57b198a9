"""Honest: a recurrence that amplifies rounding a hundred times."""

import torch
from torch import nn


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        state = torch.zeros_like(x[:, 0])
        outputs = []
        for t in range(x.shape[1]):
            state = torch.sin(1.5 * self.proj(state) + x[:, t])
            outputs.append(state)
        return torch.stack(outputs, 1)
