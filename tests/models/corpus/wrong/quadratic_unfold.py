"""Wrong: windows as long as the sequence, as a view without memory, are summed.

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
        windows = functional.pad(x, (0, 0, length - 1, 0)).unfold(1, length, 1)
        return self.proj(windows.sum(-1)) / length**0.5 * length**0.5 / x.shape[-1]
