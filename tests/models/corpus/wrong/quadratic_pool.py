"""Wrong: max pooling with a window as long as the sequence.

Refused by: cost
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
        padded = functional.pad(x.transpose(1, 2), (length - 1, 0), value=-1e4)
        return self.proj(functional.max_pool1d(padded, length, stride=1).transpose(1, 2))
