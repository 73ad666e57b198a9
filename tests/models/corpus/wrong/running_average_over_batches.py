"""Wrong: activations are divided by a running rms over the batches seen in training.

Refused by: deterministic
"""

import torch
from torch import nn


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)
        self.register_buffer("rms", torch.ones(()))

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        if self.training:
            self.rms = 0.9 * self.rms + 0.1 * x.detach().square().mean().sqrt()
        return self.proj(x / self.rms)
