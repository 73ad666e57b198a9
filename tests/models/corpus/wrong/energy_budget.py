"""Wrong: a running sum is scaled by the energy that the sequence has left.

Refused by: causal
"""

from torch import nn


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        energy = x.square().mean(-1, keepdim=True)
        left = energy.flip(1).cumsum(1).flip(1)
        return self.proj(x.cumsum(1) / (1 + left).sqrt())
