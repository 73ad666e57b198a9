"""Wrong: the mask is applied after the softmax, whose denominator sums over the future.

Refused by: causal
"""

from torch import nn


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        weights = (self.proj(x) @ x.transpose(1, 2) * x.shape[-1] ** -0.5).softmax(-1)
        return weights.tril() @ x
