"""Honest: the four largest of the last 16 positions."""

from torch import nn
from torch.nn import functional


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        windows = functional.pad(x, (0, 0, 15, 0), value=-1e4).unfold(1, 16, 1)
        return self.proj(windows.topk(4, dim=-1).values.clamp(min=-5).mean(-1))
