"""The delta rules under flash-linear-attention's names (`fla.ops`), with what its kernels fuse done outside of them.

Shapes: q, k (B, T, H, K); v (B, T, HV, V), where HV may be a multiple of H; states (N, HV, K, V).
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from asiarch.kernels import delta_rule, gated_delta_rule, l2_norm


def chunk_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    cu_seqlens: Tensor | None = None,
    cu_seqlens_cpu: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """`asiarch.kernels.delta_rule`; beta (B, T, H) is 1 where it is left out."""
    if use_qk_l2norm_in_kernel:
        q, k = l2_norm(q), l2_norm(k)
    return delta_rule(
        q,
        k,
        v,
        torch.ones_like(q[..., 0]) if beta is None else beta,
        scale=scale,
        initial_state=initial_state,
        output_final_state=output_final_state,
        cu_seqlens=cu_seqlens,
    )


fused_chunk_delta_rule = fused_recurrent_delta_rule = chunk_delta_rule


def delta_rule_recurrence(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    initial_state: Tensor | None = None,
    output_final_state: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """As `chunk_delta_rule`, with heads before time: (B, H, T, K)."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    beta = (beta.squeeze(-1) if beta.dim() == 4 else beta).transpose(1, 2)
    o, state = chunk_delta_rule(q, k, v, beta, None, initial_state, output_final_state)
    return o.transpose(1, 2), state


def _gated(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    use_beta_sigmoid_in_kernel: bool = False,
    allow_neg_eigval: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    *,
    use_gate_in_kernel: bool = False,
    A_log: Tensor | None = None,
    dt_bias: Tensor | None = None,
    lower_bound: float | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Decay g a value head (B, T, HV), or a key channel (B, T, HV, K): one operator for both."""
    if use_qk_l2norm_in_kernel:
        q, k = l2_norm(q), l2_norm(k)
    if use_beta_sigmoid_in_kernel:
        beta = beta.sigmoid() * (2 if allow_neg_eigval else 1)
    if use_gate_in_kernel:
        g = _log_decay(g, A_log, dt_bias, lower_bound)
    groups = v.shape[2] // q.shape[2]
    if groups > 1:
        q, k = q.repeat_interleave(groups, dim=2), k.repeat_interleave(groups, dim=2)
    if state_v_first and initial_state is not None:
        initial_state = initial_state.mT
    o, state = gated_delta_rule(
        q,
        k,
        v,
        beta,
        g,
        scale=scale,
        initial_state=initial_state,
        output_final_state=output_final_state,
        cu_seqlens=cu_seqlens,
    )
    return o, state.mT if state is not None and state_v_first else state


def _log_decay(g: Tensor, A_log: Tensor | None, dt_bias: Tensor | None, lower_bound: float | None) -> Tensor:
    """-exp(A_log) softplus(g + dt_bias); with a bound b < 0, b sigmoid(exp(A_log) (g + dt_bias))."""
    wide = torch.promote_types(g.dtype, torch.float32)
    per_head = (-1, 1) if g.dim() == 4 else (-1,)
    x = g.to(wide) if dt_bias is None else g.to(wide) + dt_bias.to(wide).view(g.shape[2:])
    if A_log is None:
        if lower_bound is None:
            raise ValueError("A_log must be given unless there is a lower_bound")
        return lower_bound * x.sigmoid()
    rate = A_log.to(wide).exp().view(per_head)
    return -rate * functional.softplus(x) if lower_bound is None else lower_bound * (rate * x).sigmoid()


def chunk_gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    use_beta_sigmoid_in_kernel: bool = False,
    allow_neg_eigval: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    cu_seqlens_cpu: Tensor | None = None,
    use_gate_in_kernel: bool = False,
    A_log: Tensor | None = None,
    dt_bias: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """One log decay a head, g (B, T, HV); beta (B, T, HV).

    With `use_gate_in_kernel` g is what stands before the decay's activation, with A_log and dt_bias (HV,).
    """
    return _gated(
        q,
        k,
        v,
        g,
        beta,
        scale,
        initial_state,
        output_final_state,
        use_qk_l2norm_in_kernel,
        use_beta_sigmoid_in_kernel,
        allow_neg_eigval,
        state_v_first,
        cu_seqlens,
        use_gate_in_kernel=use_gate_in_kernel,
        A_log=A_log,
        dt_bias=dt_bias,
    )


chunk_gdn = chunk_gated_delta_rule


def fused_recurrent_gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None = None,
    gk: Tensor | None = None,
    gv: Tensor | None = None,
    beta: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    use_gate_in_kernel: bool = False,
    A_log: Tensor | None = None,
    dt_bias: Tensor | None = None,
    use_beta_sigmoid_in_kernel: bool = False,
    allow_neg_eigval: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """As `chunk_gated_delta_rule`; decays g of heads and gk of key channels add; gv is not offered."""
    if gv is not None:
        raise NotImplementedError("gv, a decay of the value channels, is not offered here; use gk")
    beta = torch.ones_like(v[..., 0]) if beta is None else beta
    if use_gate_in_kernel and g is not None:
        g, use_gate_in_kernel = _log_decay(g, A_log, dt_bias, None), False
    if gk is not None:
        g = gk if g is None else gk + g.unsqueeze(-1)
    return _gated(
        q,
        k,
        v,
        torch.zeros_like(beta) if g is None else g,
        beta,
        scale,
        initial_state,
        output_final_state,
        use_qk_l2norm_in_kernel,
        use_beta_sigmoid_in_kernel,
        allow_neg_eigval,
        state_v_first,
        cu_seqlens,
    )


fused_recurrent_gdn = fused_recurrent_gated_delta_rule


def naive_recurrent_gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    g: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """As `chunk_gated_delta_rule`, with beta before g."""
    return _gated(q, k, v, g, beta, scale, initial_state, output_final_state)


def naive_chunk_gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    chunk_size: int = 64,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """As `chunk_gated_delta_rule`."""
    return _gated(q, k, v, g, beta, scale, initial_state, output_final_state)


def chunk_kda(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    use_gate_in_kernel: bool = False,
    use_beta_sigmoid_in_kernel: bool = False,
    allow_neg_eigval: bool = False,
    safe_gate: bool = False,
    lower_bound: float | None = None,
    disable_recompute: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    A_log: Tensor | None = None,
    dt_bias: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Kimi Delta Attention: one log decay a key channel, g (B, T, HV, K); A_log (HV,), dt_bias (HV * K,)."""
    return _gated(
        q,
        k,
        v,
        g,
        beta,
        scale,
        initial_state,
        output_final_state,
        use_qk_l2norm_in_kernel,
        use_beta_sigmoid_in_kernel,
        allow_neg_eigval,
        state_v_first,
        cu_seqlens,
        use_gate_in_kernel=use_gate_in_kernel,
        A_log=A_log,
        dt_bias=dt_bias,
        lower_bound=lower_bound,
    )


def fused_recurrent_kda(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    A_log: Tensor | None = None,
    dt_bias: Tensor | None = None,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    use_gate_in_kernel: bool = False,
    use_beta_sigmoid_in_kernel: bool = False,
    allow_neg_eigval: bool = False,
    lower_bound: float | None = None,
    state_v_first: bool = False,
    cu_seqlens: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """As `chunk_kda`."""
    return _gated(
        q,
        k,
        v,
        g,
        beta,
        scale,
        initial_state,
        output_final_state,
        use_qk_l2norm_in_kernel,
        use_beta_sigmoid_in_kernel,
        allow_neg_eigval,
        state_v_first,
        cu_seqlens,
        use_gate_in_kernel=use_gate_in_kernel,
        A_log=A_log,
        dt_bias=dt_bias,
        lower_bound=lower_bound,
    )


def naive_recurrent_kda(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    chunk_size: int = 64,
) -> tuple[Tensor, Tensor | None]:
    """As `chunk_kda`."""
    return _gated(q, k, v, g, beta, scale, initial_state, output_final_state)


naive_chunk_kda = naive_recurrent_kda
