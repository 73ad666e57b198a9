"""Wrong: a recurrence that grows by 30% a step: infinite after 350 positions.

Refused by: forward_backward, causal, cost
"""

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
            state = 1.3 * state + x[:, t]
            outputs.append(state / (1 + state.abs()))
        return self.proj(torch.stack(outputs, 1))
