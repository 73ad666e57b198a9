"""Wrong: gradients are switched off and left so.

Refused by: forward_backward, gradients
"""

import torch
from torch import nn


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        y = self.proj(x)
        torch.set_grad_enabled(False)
        return y
