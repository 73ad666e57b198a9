"""Linear attention with no, scalar and vector decay under flash-linear-attention's names (`fla.ops`).

Every form (chunk, fused_chunk, fused_recurrent, naive) is the same function of its arguments, and is
`asiarch.kernels.linear_attention`. Shapes: q, k (B, T, H, K); v (B, T, H, V); states (N, H, K, V).
"""

from typing import Any

import torch
from torch import Tensor

from asiarch.kernels import linear_attention
from asiarch.models.fla_compat.padding import prepare_sequence_ids


def linear_operator(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    scale: float | None,
    initial_state: Tensor | None,
    output_final_state: bool,
    cu_seqlens: Tensor | None,
    *,
    state_v_first: bool = False,
    reverse: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """The one call behind all the names below."""
    if reverse:
        raise NotImplementedError("reverse=True reads the future, which no causal mixer may")
    if state_v_first and initial_state is not None:
        initial_state = initial_state.mT
    o, state = linear_attention(
        q,
        k,
        v,
        log_decay,
        scale=scale,
        initial_state=initial_state,
        output_final_state=output_final_state,
        cu_seqlens=cu_seqlens,
    )
    return o, state.mT if state is not None and state_v_first else state


def _normalised(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    initial_state: Any = None,
    output_final_state: bool = False,
    normalize: bool = True,
    cu_seqlens: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Any]:
    """Linear attention without decay; with `normalize` divided by the query's product with the sum of keys.

    The state is then a pair with that sum, (N, 1, H, K).
    """
    pair = isinstance(initial_state, tuple)
    memory, before = initial_state if pair else (initial_state, None)
    o, state = linear_operator(q, k, v, None, scale, memory, output_final_state, cu_seqlens, reverse=reverse)
    if not normalize:
        return o, state
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    total = k.to(torch.promote_types(k.dtype, torch.float32)).cumsum(1)
    if cu_seqlens is not None:
        ids, starts = prepare_sequence_ids(cu_seqlens).long(), cu_seqlens[:-1].long()
        ends = cu_seqlens[1:].long() - 1
        total = total - (total[0, starts] - k[0, starts])[ids]
        if before is not None:
            total = total + before[:, 0][ids]
        last = total[0, ends].unsqueeze(1)
    else:
        total = total if before is None else total + before
        last = total[:, -1:]
    weight = (q * scale * total).sum(-1, keepdim=True) + 1e-10
    return (o / weight).to(o.dtype), (state, last) if output_final_state else None


chunk_linear_attn = fused_chunk_linear_attn = _normalised


def fused_recurrent_linear_attn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    initial_state: Any = None,
    output_final_state: bool = False,
    reverse: bool = False,
    normalize: bool = False,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Any]:
    """As `chunk_linear_attn`; not normalised unless asked for."""
    return _normalised(q, k, v, scale, initial_state, output_final_state, normalize, cu_seqlens, reverse)


def naive_recurrent_linear_attn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    initial_state: Any = None,
    output_final_state: bool = False,
    normalize: bool = False,
) -> tuple[Tensor, Any]:
    """As `chunk_linear_attn`; not normalised unless asked for."""
    return _normalised(q, k, v, scale, initial_state, output_final_state, normalize)


def naive_chunk_linear_attn(
    q: Tensor, k: Tensor, v: Tensor, scale: float | None = None, normalize: bool = False
) -> Tensor:
    """The output alone."""
    return _normalised(q, k, v, scale, None, False, normalize)[0]


def chunk_simple_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None = None,
    g_gamma: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    cu_seqlens_cpu: Tensor | None = None,
    reverse: bool = False,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """One log decay a head: g (B, T, H), or g_gamma (H,) the same at every position, or both added."""
    log_decay = g
    if g_gamma is not None:
        fixed = g_gamma.to(torch.promote_types(q.dtype, torch.float32)).expand(q.shape[:3])
        log_decay = fixed if g is None else g + fixed
    return linear_operator(
        q,
        k,
        v,
        log_decay,
        scale,
        initial_state,
        output_final_state,
        cu_seqlens,
        state_v_first=state_v_first,
        reverse=reverse,
    )


fused_recurrent_simple_gla = chunk_simple_gla


def fused_chunk_simple_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None = None,
    g_gamma: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """As `chunk_simple_gla`."""
    return chunk_simple_gla(
        q, k, v, g, g_gamma, scale, initial_state, output_final_state, cu_seqlens=cu_seqlens
    )


def naive_recurrent_simple_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """As `chunk_simple_gla`; the state is returned unless refused."""
    return chunk_simple_gla(q, k, v, g, None, scale, initial_state, output_final_state)


def chunk_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    cu_seqlens_cpu: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """One log decay a key channel: g (B, T, H, K)."""
    return linear_operator(
        q, k, v, g, scale, initial_state, output_final_state, cu_seqlens, state_v_first=state_v_first
    )


fused_chunk_gla = chunk_gla


def fused_recurrent_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gk: Tensor | None = None,
    gv: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    reverse: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """As `chunk_gla`; decays of value channels are not offered."""
    if gv is not None:
        raise NotImplementedError("gv, a decay of the value channels, is not offered here; use gk")
    return linear_operator(
        q,
        k,
        v,
        gk,
        scale,
        initial_state,
        output_final_state,
        cu_seqlens,
        state_v_first=state_v_first,
        reverse=reverse,
    )


def naive_recurrent_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gk: Tensor,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """As `chunk_gla`."""
    return linear_operator(q, k, v, gk, None, initial_state, output_final_state, None)


def chunk_retention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Head h keeps 1 - 2^(-5 - h) at each position; Sun et al., "Retentive Network", 2023."""
    heads = torch.arange(q.shape[2], device=q.device, dtype=torch.float32)
    log_decay = torch.log1p(-(2.0 ** (-5.0 - heads)))
    return chunk_simple_gla(
        q,
        k,
        v,
        None,
        log_decay,
        scale,
        initial_state,
        output_final_state,
        bool(kwargs.get("state_v_first", False)),
        cu_seqlens,
        reverse=bool(kwargs.get("reverse", False)),
    )


fused_chunk_retention = fused_recurrent_retention = chunk_retention


def chunk_lightning_attn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layer_idx: int,
    num_layers: int,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """A fixed decay that grows with the head and shrinks with the layer; Qin et al., "Lightning Attention-2", 2024."""
    heads = torch.arange(q.shape[2], device=q.device, dtype=torch.float32)
    log_decay = -(8 / q.shape[2] * (1 - layer_idx / num_layers)) * heads
    return chunk_simple_gla(
        q, k, v, None, log_decay, scale, initial_state, output_final_state, cu_seqlens=cu_seqlens
    )


fused_recurrent_lightning_attn = chunk_lightning_attn
