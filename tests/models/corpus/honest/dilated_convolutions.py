"""Honest: convolutions with gaps of 1, 8 and 64."""

from torch import nn
from torch.nn import functional


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)
        self.convs = nn.ModuleList(
            nn.Conv1d(hidden_size, hidden_size, 2, dilation=gap, groups=hidden_size) for gap in (1, 8, 64)
        )

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        y = x.transpose(1, 2)
        for conv, gap in zip(self.convs, (1, 8, 64), strict=True):
            y = y + conv(functional.pad(y, (gap, 0)))
        return self.proj(y.transpose(1, 2))
