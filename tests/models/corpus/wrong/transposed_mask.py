"""Wrong: triu where tril was meant, behind a small weight.

Refused by: causal
"""

from torch import nn


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        return self.proj(x) + 1e-3 * (x @ x.transpose(1, 2)).triu() @ x / x.shape[1]
