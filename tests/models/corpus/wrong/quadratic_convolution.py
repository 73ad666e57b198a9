"""Wrong: a convolution with a kernel as long as the sequence, not by FFT.

Refused by: cost
"""

import torch
from torch import nn
from torch.nn import functional


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)
        self.decay = nn.Parameter(torch.rand(hidden_size) + 0.1)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        length = x.shape[1]
        time = torch.arange(length - 1, -1, -1, device=x.device, dtype=x.dtype)
        kernel = torch.exp(-self.decay.abs()[:, None] * time)[:, None]
        padded = functional.pad(self.proj(x).transpose(1, 2), (length - 1, 0))
        return functional.conv1d(padded, kernel, groups=x.shape[-1]).transpose(1, 2)
