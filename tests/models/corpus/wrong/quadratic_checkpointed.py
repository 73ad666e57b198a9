"""Wrong: quadratic scores inside a checkpoint.

Refused by: cost
"""

from torch import nn
from torch.utils.checkpoint import checkpoint


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        return checkpoint(self.mix, x, use_reentrant=False)

    def mix(self, x):
        return (self.proj(x) @ x.transpose(1, 2)).tril() @ x / x.shape[-1]
