"""Rotary positions (`fla.modules.rotary`): Su et al., "RoFormer", 2021; XPos: Sun et al., 2022."""

from typing import Any

import torch
from torch import Tensor, nn

from asiarch.models.fla_compat.padding import prepare_position_ids, prepare_sequence_ids


def rotary_embedding(
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    interleaved: bool = False,
    inplace: bool = False,
    seqlen_offsets: int | Tensor = 0,
    cu_seqlens: Tensor | None = None,
    **kwargs: Any,
) -> Tensor:
    """Turn pairs of the first 2 R channels of x (B, L, H, D) by each position's angle.

    Args:
        cos, sin: (positions, R).
        interleaved: pairs are neighbours, else channels i and i + R.
        seqlen_offsets: the first position, one for all or one a sequence (N,).
        cu_seqlens: the borders of the sequences in a packed row.
    """
    half = cos.shape[-1]
    at = _positions(x, seqlen_offsets, cu_seqlens)
    cos, sin = (table[at].unsqueeze(-2).to(x.dtype) for table in (cos, sin))
    turned, rest = x[..., : 2 * half], x[..., 2 * half :]
    if interleaved:
        first, second = turned[..., ::2], turned[..., 1::2]
        pairs = torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)
        return torch.cat([pairs, rest], dim=-1)
    first, second = turned[..., :half], turned[..., half:]
    return torch.cat([first * cos - second * sin, first * sin + second * cos, rest], dim=-1)


def _positions(x: Tensor, offsets: int | Tensor, cu_seqlens: Tensor | None) -> Tensor:
    """Each position's number, (1 or B, L)."""
    if cu_seqlens is not None:
        places = prepare_position_ids(cu_seqlens).long()
        if isinstance(offsets, Tensor):
            return (places + offsets.long()[prepare_sequence_ids(cu_seqlens).long()]).unsqueeze(0)
        return (places + offsets).unsqueeze(0)
    places = torch.arange(x.shape[1], device=x.device).unsqueeze(0)
    return places + (offsets.long().unsqueeze(-1) if isinstance(offsets, Tensor) else offsets)


class RotaryEmbedding(nn.Module):
    """Rotary positions on queries and keys: base^(-2i / dim) radians a position for pair i.

    With `scale_base` queries grow and keys shrink with the position, as in XPos.
    """

    inv_freq: Tensor
    scale: Tensor | None

    def __init__(
        self,
        dim: int,
        base: float = 10000.0,
        scale_base: float | None = None,
        interleaved: bool = False,
        pos_idx_in_fp32: bool = True,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        if dim % 2:
            raise ValueError(f"dim is {dim}, expected an even number")
        self.dim, self.base, self.scale_base, self.interleaved = dim, float(base), scale_base, interleaved
        pairs = torch.arange(0, dim, 2, device=device, dtype=torch.float32)
        self.register_buffer("inv_freq", self.base ** (-pairs / dim), persistent=False)
        scale = None if scale_base is None else (pairs + 0.4 * dim) / (1.4 * dim)
        self.register_buffer("scale", scale, persistent=False)

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        seqlen_offset: int | Tensor = 0,
        cu_seqlens: Tensor | None = None,
        max_seqlen: int | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor]:
        """q (B, L, H, D) and k (B, L, H', D), turned."""
        largest = int(seqlen_offset.max()) if isinstance(seqlen_offset, Tensor) else seqlen_offset
        length = max(q.shape[1] + largest, max_seqlen or 0)
        # angles in float32 at least, also where the module was cast to less
        dtype = torch.promote_types(q.dtype, torch.float32)
        pairs = torch.arange(0, self.dim, 2, device=q.device, dtype=dtype)
        positions = torch.arange(length, device=q.device, dtype=dtype)
        angle = positions[:, None] * self.base ** (-pairs / self.dim)
        cos, sin = angle.cos(), angle.sin()
        growth = torch.ones_like(angle)
        if self.scale is not None:
            assert self.scale_base is not None
            growth = self.scale.to(angle) ** ((positions - length // 2) / self.scale_base)[:, None]
        rules = {"interleaved": self.interleaved, "seqlen_offsets": seqlen_offset, "cu_seqlens": cu_seqlens}
        q = rotary_embedding(q, cos * growth, sin * growth, **rules)  # type: ignore[arg-type]
        k = rotary_embedding(k, cos / growth, sin / growth, **rules)  # type: ignore[arg-type]
        return q, k
