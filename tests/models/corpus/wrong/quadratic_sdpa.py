"""Wrong: PyTorch's fused attention: linear memory, quadratic arithmetic.

Refused by: cost
"""

from torch import nn
from torch.nn import functional


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        q, k = self.proj(x)[:, None], x[:, None]
        return functional.scaled_dot_product_attention(q, k, k, is_causal=True)[:, 0]
