"""Wrong: the causal mask is a bias of -1e4 that training may raise.

Refused by: causal
"""

import torch
from torch import nn


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)
        self.bias = nn.Parameter(torch.tensor(-1e4))

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        distance = torch.arange(x.shape[1], device=x.device)
        scores = self.proj(x) @ x.transpose(1, 2) / x.shape[-1]
        return (scores + self.bias * (distance > distance[:, None])).softmax(-1) @ x
