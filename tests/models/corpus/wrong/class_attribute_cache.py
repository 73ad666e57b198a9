"""Wrong: the class remembers the mean of the last call.

Refused by: deterministic
"""

from torch import nn


class Mixer(nn.Module):
    seen = 0.0

    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        seen = Mixer.seen
        Mixer.seen = float(x.detach().mean())
        return self.proj(x + seen)
