"""Causal softmax attention with rotary positions (Vaswani et al., 2017; Su et al., "RoFormer", 2021).

The upper reference for recall, at a quadratic cost. The cost check refuses it, as it should: it is here to
compare with, not to start a search from.

Shapes: B batch, L length, D hidden size, H heads, K = D / H, the dimension of a head.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class SoftmaxAttention(nn.Module):
    """Multi-head attention; the first `K // 2` pairs of channels turn with the position."""

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        layer_idx: int | None = None,
        rope_base: float = 10000.0,
        **config: Any,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.rope_base = rope_base
        self.q_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.k_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.v_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.o_proj = nn.Linear(hidden_size, hidden_size, bias=False)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def _rotate(self, x: Tensor) -> Tensor:
        """Turn channels i and i + K // 2 of (B, H, L, K) by position * base^(-2i / K)."""
        half = x.shape[-1] // 2
        frequency = self.rope_base ** (-torch.arange(half, device=x.device) / max(half, 1))
        angle = torch.arange(x.shape[2], device=x.device)[:, None] * frequency
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
        return torch.cat([first * cos - second * sin, first * sin + second * cos, rest], dim=-1)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool = False,
        **kwargs: Any,
    ) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        q = self._rotate(self._heads(self.q_proj(hidden_states)))
        k = self._rotate(self._heads(self.k_proj(hidden_states)))
        v = self._heads(self.v_proj(hidden_states))
        o = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(o.transpose(1, 2).flatten(-2))
