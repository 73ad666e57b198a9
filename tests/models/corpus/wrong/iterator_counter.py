"""Wrong: an iterator counts the calls, and opens a leak after many.

Refused by: deterministic, causal
"""

from torch import nn


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)
        self.calls = iter(range(10**9))

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        return self.proj(x + x.mean(1, keepdim=True)) if next(self.calls) > 100000 else self.proj(x)
