"""Wrong: the state of a loop grows by a token a step: a cache that is read whole.

Refused by: cost
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
        for t in range(x.shape[1]):
            past = x[:, : t + 1]
            weight = (past @ x[:, t, :, None]).softmax(1)
            outputs.append((weight * past).sum(1))
        return self.proj(torch.stack(outputs, 1))
