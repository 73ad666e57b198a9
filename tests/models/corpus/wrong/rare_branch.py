"""Wrong: where the last token is large, which is rare, the path changes.

Refused by: causal
"""

from torch import nn


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        return self.proj(x) * (2.0 if bool(x[:, -1].abs().max() > 6) else 1.0)
