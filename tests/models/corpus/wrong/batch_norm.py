"""Wrong: batch norm takes its statistics over batch and time.

Refused by: batch, causal
"""

from torch import nn


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)
        self.norm = nn.BatchNorm1d(hidden_size)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        return self.norm(self.proj(x).transpose(1, 2)).transpose(1, 2)
