"""The gated delta rule: decay the memory, then replace what it holds for a key by a new value."""

from torch import Tensor

from asiarch.kernels.recurrence import recurrence

__all__ = ["gated_delta_rule"]


def gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_decay: Tensor,
    *,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    chunk_size: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """S_t = (I - beta_t k_t k_t^T) diag(exp(log_decay_t)) S_{t-1} + beta_t k_t v_t^T;  o_t = scale q_t^T S_t.

    With one decay a head: Yang, Kautz and Hatamizadeh, "Gated Delta Networks", 2025, eq. 10 (there the state is
    transposed). With one a key channel: Kimi Delta Attention (Kimi Team, "Kimi Linear", 2025, eq. 1).

    Args:
        q, k: (B, L, H, K). Keys of length 1 or less keep the state bounded (beta |k|^2 <= 2).
        v: (B, L, H, V).
        beta: (B, L, H), in [0, 2]: how much of the old value is replaced.
        log_decay: (B, L, H), or (B, L, H, K); natural logarithm of what is kept a step, <= 0.
        scale: factor of the output, K**-0.5 if None.
        initial_state: (B, H, K, V), or (documents, H, K, V) with cu_seqlens; zeros if None.
        output_final_state: also return the state after the last position, of each document with cu_seqlens.
        cu_seqlens: (documents + 1,) int32 or int64, for documents laid end to end in one row (B = 1): where each
            starts, and L. None of them reads another.
        chunk_size: a power of two, None for the fastest; changes speed, not the result. Length 1 takes one step.

    Returns:
        o (B, L, H, V) in v's dtype, and the state, shaped as initial_state, or None. Sums are taken and the state
        is held in float32, or float64 for float64 inputs.

    Raises:
        ValueError: a shape, cu_seqlens or the chunk size does not fit.
    """
    output, state = recurrence(
        q,
        k,
        v,
        beta=beta,
        log_decay=log_decay,
        scale=scale,
        initial_state=initial_state,
        cu_seqlens=cu_seqlens,
        chunk_size=chunk_size,
    )
    return output, state if output_final_state else None
