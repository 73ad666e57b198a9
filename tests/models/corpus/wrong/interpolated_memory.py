"""Wrong: time is pooled to 16 slots and interpolated back.

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
        slots = functional.adaptive_avg_pool1d(x.transpose(1, 2), 16)
        return self.proj(functional.interpolate(slots, size=x.shape[1]).transpose(1, 2))
