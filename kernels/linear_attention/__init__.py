"""Linear attention, without decay, with one decay a head, or with one a key channel."""

from torch import Tensor

from asiarch.kernels.recurrence import recurrence

__all__ = ["linear_attention"]


def linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None = None,
    *,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    chunk_size: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """S_t = exp(log_decay_t) S_{t-1} + k_t v_t^T;  o_t = scale q_t^T S_t.

    Without decay: Katharopoulos et al., "Transformers are RNNs", 2020. With one decay a head: RetNet (Sun et
    al., 2023) and Mamba-2 (Dao and Gu, 2024). With one a key channel: GLA (Yang et al., 2024, eq. 3).

    Args:
        q, k: (B, L, H, K).
        v: (B, L, H, V).
        log_decay: None, (B, L, H), or (B, L, H, K); natural logarithm of what is kept a step, <= 0.
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
        beta=None,
        log_decay=log_decay,
        scale=scale,
        initial_state=initial_state,
        cu_seqlens=cu_seqlens,
        chunk_size=chunk_size,
    )
    return output, state if output_final_state else None
