"""Wrong: dropout whose rate follows the mean of the sequence.

Refused by: causal
"""

import torch
from torch import nn
from torch.nn import functional


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        rate = torch.sigmoid(x.mean()).item() if self.training else 0.0
        return self.proj(functional.dropout(x, rate, self.training))
