"""Wrong: the path for a GPU forgets the mask.

Refused by: device
"""

from torch import nn


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        scores = self.proj(x) @ x.transpose(1, 2) / x.shape[-1]
        if not x.is_cuda:
            scores = scores.tril()
        return scores @ x
