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
        self.layer_idx: Any = layer_idx
        self.rope_base = rope_base
        self.q_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.k_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.v_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.o_proj = nn.Linear(hidden_size, hidden_size, bias=False)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def _rotate(self, x: Tensor, start: int = 0) -> Tensor:
        """Turn channels i and i + K // 2 of (B, H, L, K) by position * base^(-2i / K), positions from `start`."""
        half = x.shape[-1] // 2
        frequency = self.rope_base ** (-torch.arange(half, device=x.device) / max(half, 1))
        angle = torch.arange(start, start + x.shape[2], device=x.device)[:, None] * frequency
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
        return torch.cat([first * cos - second * sin, first * sin + second * cos, rest], dim=-1)

    @staticmethod
    def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The last L queries of as many positions as there are keys, (B, H, L, K)."""
        if q.shape[2] == k.shape[2]:
            return functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        seen = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device)
        return functional.scaled_dot_product_attention(q, k, v, seen.tril(k.shape[2] - q.shape[2]))

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool = False,
        **kwargs: Any,
    ) -> Tensor:
        """(B, L, D) -> (B, L, D). `cu_seqlens`: borders of documents in one row. `past_key_values`: a `Cache`."""
        borders = kwargs.get("cu_seqlens")
        if borders is not None:
            documents = [x for x in hidden_states.split(borders.diff().tolist(), dim=1) if x.shape[1]]
            return torch.cat([self.forward(document) for document in documents], dim=1)
        start = 0 if past_key_values is None else past_key_values.get_seq_length(self.layer_idx)
        q = self._rotate(self._heads(self.q_proj(hidden_states)), start)
        k = self._rotate(self._heads(self.k_proj(hidden_states)), start)
        v = self._heads(self.v_proj(hidden_states))
        if past_key_values is not None and use_cache:
            # a cache grows in its second dimension
            new = (k.transpose(1, 2), v.transpose(1, 2))
            joined = past_key_values.update(attn_state=new, layer_idx=self.layer_idx)["attn_state"]
            k, v = (part.transpose(1, 2) for part in joined)
        return self.o_proj(self._attend(q, k, v).transpose(1, 2).flatten(-2))
