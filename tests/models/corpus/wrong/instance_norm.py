"""Wrong: nn.InstanceNorm1d normalises each channel over time.

Refused by: forward_backward
"""

from torch import nn


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)
        self.norm = nn.InstanceNorm1d(hidden_size)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        return self.proj(self.norm(x.transpose(1, 2)).transpose(1, 2))
