"""Wrong: a learned filter multiplies the lowest frequencies of the sequence.

Refused by: causal
"""

import torch
from torch import nn


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)
        self.scale = nn.Parameter(torch.full((hidden_size,), 1.1))

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        spectrum = torch.fft.rfft(x, n=2 * x.shape[1], dim=1)
        kept = spectrum[:, :1] * torch.complex(self.scale, torch.zeros_like(self.scale))
        spectrum = torch.cat((kept, spectrum[:, 1:]), 1)
        return self.proj(torch.fft.irfft(spectrum, n=2 * x.shape[1], dim=1)[:, : x.shape[1]])
