"""Wrong: one parameter in ten draws of the init opens the leak.

Refused by: causal
"""

from torch import nn


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        return self.proj(x + x.mean(1, keepdim=True) if self.proj.weight[0, 0] > 0.1 else x)
