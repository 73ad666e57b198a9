"""Wrong: a layer norm over (length, channels) by functional.layer_norm.

Refused by: causal
"""

from torch import nn
from torch.nn import functional


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        return self.proj(functional.layer_norm(x, x.shape[1:]))
