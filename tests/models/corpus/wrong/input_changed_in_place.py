"""Wrong: the input is changed in place, under the feet of the residual stream.

Refused by: causal
"""

from torch import nn


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        x = x.detach() if not x.requires_grad else x
        x.mul_(2.0)
        return self.proj(x)
