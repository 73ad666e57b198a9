"""Wrong: a token that comes again later is marked.

Refused by: causal, model
"""

from torch import nn


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        same = (x[:, :, None, :4] - x[:, None, :, :4]).abs().amax(-1) < 1e-6
        again = same.triu(1).any(-1, keepdim=True).to(x.dtype)
        return self.proj(x + again)
