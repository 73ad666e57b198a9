"""Wrong: forward changes a weight a little, in train mode.

Refused by: deterministic
"""

from torch import nn


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        if self.training:
            self.proj.weight.data.mul_(0.9999)
        return self.proj(x)
