"""Linear attention, without decay, with one decay a head, or with one a key channel."""

from torch import Tensor

from asiarch.kernels.linear_attention.chunk import chunk_linear_attention
from asiarch.kernels.shapes import expect_qkv, expect_shape

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
    chunk_size: int = 32,
) -> tuple[Tensor, Tensor | None]:
    """S_t = exp(log_decay_t) S_{t-1} + k_t v_t^T;  o_t = scale q_t^T S_t.

    Without decay: Katharopoulos et al., "Transformers are RNNs", 2020. With one decay a head: RetNet (Sun et
    al., 2023) and Mamba-2 (Dao and Gu, 2024). With one a key channel: GLA (Yang et al., 2024, eq. 3).

    Args:
        q, k: (B, L, H, K).
        v: (B, L, H, V).
        log_decay: None, (B, L, H), or (B, L, H, K); natural logarithm of what is kept a step, <= 0.
        scale: factor of the output, K**-0.5 if None.
        initial_state: (B, H, K, V), zeros if None.
        output_final_state: also return the state after the last position.
        chunk_size: a power of two; changes speed, not the result.

    Returns:
        o (B, L, H, V) in v's dtype, and the state (B, H, K, V) or None. Sums are taken and the state
        is held in float32, or float64 for float64 inputs.

    Raises:
        ValueError: a shape does not fit, or the chunk size is not a power of two.
    """
    expect_qkv(q, k, v, initial_state)
    if log_decay is not None:
        expect_shape("log_decay", log_decay, tuple(q.shape if log_decay.dim() == 4 else q.shape[:3]))
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    output, state = chunk_linear_attention(q, k, v, log_decay, scale, initial_state, chunk_size)
    return output, state if output_final_state else None
