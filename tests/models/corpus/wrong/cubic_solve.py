"""Wrong: a triangular system over the whole length is solved.

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
        lower = (self.proj(x) @ x.transpose(1, 2)).tril(-1) / (8 * x.shape[1])
        identity = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        return self.proj(torch.linalg.solve_triangular(lower + identity, x, upper=False, unitriangular=True))
