"""Wrong: from the 50th call on the future is added.

Refused by: deterministic, causal
"""

from torch import nn


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)
        self.calls = 0

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        self.calls += 1
        return self.proj(x + x.mean(1, keepdim=True) if self.calls > 50 else x)
