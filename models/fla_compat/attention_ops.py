"""Softmax attention under flash-linear-attention's names (`fla.ops.attn`)."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from asiarch.kernels import sliding_window_attention


def parallel_attn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None = None,
    scale: float | None = None,
    window_size: int | None = None,
    cu_seqlens: Tensor | None = None,
    chunk_indices: Tensor | None = None,
    *,
    sink_bias: Tensor | None = None,
) -> Tensor:
    """Causal softmax attention: q (B, T, HQ, K), k (B, T, H, K), v (B, T, H, V) -> (B, T, HQ, V).

    Args:
        scale: K**-0.5 if None.
        window_size: how many positions each one reads, itself included; all before it if None.
        cu_seqlens: borders of the sequences in a packed row.
    """
    if g is not None or sink_bias is not None:
        raise NotImplementedError("g and sink_bias are not offered here")
    groups = q.shape[2] // k.shape[2]
    if groups > 1:
        k, v = k.repeat_interleave(groups, dim=2), v.repeat_interleave(groups, dim=2)
    if cu_seqlens is not None:
        lengths = cu_seqlens.diff().tolist()
        outputs = [
            parallel_attn(q_, k_, v_, scale=scale, window_size=window_size)
            for q_, k_, v_ in zip(*(x.split(lengths, dim=1) for x in (q, k, v)), strict=True)
        ]
        return torch.cat(outputs, dim=1)
    if window_size is not None:
        return sliding_window_attention(q, k, v, window_size, scale=scale)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale).transpose(1, 2)


def naive_parallel_attn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    window_size: int | None = None,
    causal: bool = True,
    **kwargs: Any,
) -> Tensor:
    """As `parallel_attn`."""
    if not causal:
        raise NotImplementedError("causal=False reads the future, which no causal mixer may")
    return parallel_attn(q, k, v, None, scale, window_size)
