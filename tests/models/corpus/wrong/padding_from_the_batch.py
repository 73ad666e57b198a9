"""Wrong: sequences are cut at the longest non-zero length in the batch.

Refused by: prefix
"""

from torch import nn


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        longest = int((x.abs().sum((0, 2)) > 0).sum())
        return self.proj(x.cumsum(1)) / max(longest, 1)
