"""Wrong: decays are normalised by their sum in the chunk.

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
        length = x.shape[1]
        x = functional.pad(x, (0, 0, 0, -length % 32)).unflatten(1, (-1, 32))
        weight = self.proj(x).sigmoid()
        return (x * weight / weight.sum(2, keepdim=True)).flatten(1, 2)[:, :length]
