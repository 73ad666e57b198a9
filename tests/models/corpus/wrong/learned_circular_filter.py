"""Wrong: a filter over frequencies, not causal in time unless trained to be; starts as one.

Refused by: causal
"""

import torch
from torch import nn


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)
        self.damp = nn.Parameter(torch.zeros(hidden_size))

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        spectrum = torch.fft.rfft(x, n=2 * x.shape[1], dim=1)
        frequency = torch.linspace(0, 1, spectrum.shape[1], device=x.device, dtype=x.dtype)[:, None]
        spectrum = spectrum * torch.exp(-self.damp * frequency)
        return self.proj(torch.fft.irfft(spectrum, n=2 * x.shape[1], dim=1)[:, : x.shape[1]])
