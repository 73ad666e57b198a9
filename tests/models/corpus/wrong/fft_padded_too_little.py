"""Wrong: the FFT is padded by 16: only a filter's tail wraps around.

Refused by: causal
"""

import torch
from torch import nn


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)
        self.decay = nn.Parameter(torch.rand(hidden_size) + 0.05)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        length = x.shape[1]
        time = torch.arange(length, device=x.device, dtype=x.dtype)[:, None]
        spectrum = torch.fft.rfft(self.proj(x), n=(length + 16), dim=1)
        kernel = torch.fft.rfft(torch.exp(-self.decay.abs() * time), n=(length + 16), dim=0)
        return torch.fft.irfft(spectrum * kernel, n=(length + 16), dim=1)[:, :length]
