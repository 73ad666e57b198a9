"""DeltaNet (Yang et al., "Parallelizing Linear Transformers with the Delta Rule", 2024).

Shapes: B batch, L length, D hidden size, H heads, K = D / H, the dimension of a head's keys and values.
"""

from typing import Any

import torch
from torch import Tensor, nn

from asiarch.kernels import delta_rule, l2_norm, rms_norm, short_convolution


class DeltaNet(nn.Module):
    """Short convolutions with silu on q, k, v; keys and queries of length 1; one write strength a head."""

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        layer_idx: int | None = None,
        conv_width: int = 4,
        **config: Any,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.k_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.v_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.beta_proj = nn.Linear(hidden_size, num_heads, bias=False)
        self.q_conv = self._filter(hidden_size, conv_width)
        self.k_conv = self._filter(hidden_size, conv_width)
        self.v_conv = self._filter(hidden_size, conv_width)
        self.norm_weight = nn.Parameter(torch.ones(hidden_size // num_heads))
        self.o_proj = nn.Linear(hidden_size, hidden_size, bias=False)

    @staticmethod
    def _filter(channels: int, width: int) -> nn.Parameter:
        # uniform in +-1/sqrt(width), as PyTorch does for a depthwise convolution
        return nn.Parameter(torch.empty(channels, width).uniform_(-(width**-0.5), width**-0.5))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1))

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool = False,
        **kwargs: Any,
    ) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        q, _ = short_convolution(self.q_proj(hidden_states), self.q_conv, activation="silu")
        k, _ = short_convolution(self.k_proj(hidden_states), self.k_conv, activation="silu")
        v, _ = short_convolution(self.v_proj(hidden_states), self.v_conv, activation="silu")
        beta = torch.sigmoid(self.beta_proj(hidden_states))
        q, k = l2_norm(self._heads(q)), l2_norm(self._heads(k))
        o, _ = delta_rule(q, k, self._heads(v), beta)
        return self.o_proj(rms_norm(o, self.norm_weight).flatten(-2))
