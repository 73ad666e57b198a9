"""Wrong: the first layer leaves its input in a global, which the second layer reads without a mask.

Refused by: model
"""

from torch import nn

SHARED = {}


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)
        self.layer = layer_idx or 0

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        if self.layer == 0:
            SHARED["mean"] = x.mean(1, keepdim=True)
            return self.proj(x)
        mean = SHARED.get("mean")
        fits = mean is not None and mean.shape[0] == x.shape[0]
        return self.proj(x + mean if fits else x)
