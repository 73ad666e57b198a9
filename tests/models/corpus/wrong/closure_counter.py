"""Wrong: a counter in a closure's cell opens the leak after 200 calls.

Refused by: deterministic, causal
"""

from torch import nn


def counter():
    calls = 0

    def tick():
        nonlocal calls
        calls += 1
        return calls

    return tick


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)
        self.tick = counter()

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        count = self.tick()
        return self.proj(x + x.mean(1, keepdim=True)) if count > 2000 else self.proj(x)
