"""Honest: the project's own operator, with normalised features."""

from torch import nn

from asiarch.kernels import linear_attention


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.heads = num_heads
        self.q, self.k, self.v, self.out = (nn.Linear(hidden_size, hidden_size, bias=False) for _ in range(4))

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        q, k, v = (p(x).unflatten(-1, (self.heads, -1)) for p in (self.q, self.k, self.v))
        o, _ = linear_attention(q.softmax(-1), k.softmax(-1), v)
        return self.out(o.flatten(-2))
