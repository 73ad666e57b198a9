"""The gated delta rule: decay the memory, then replace what it holds for a key by a new value."""

from torch import Tensor

from asiarch.kernels.gated_delta_rule.chunk import chunk_gated_delta_rule
from asiarch.kernels.shapes import expect_qkv, expect_shape

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
    chunk_size: int = 32,
) -> tuple[Tensor, Tensor | None]:
    """S_t = exp(log_decay_t) (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T;  o_t = scale q_t^T S_t.

    Yang, Kautz and Hatamizadeh, "Gated Delta Networks", 2025, eq. 10 (there the state is transposed).

    Args:
        q, k: (B, L, H, K). Keys of length 1 or less keep the state bounded (beta |k|^2 <= 2).
        v: (B, L, H, V).
        beta: (B, L, H), in [0, 2]: how much of the old value is replaced.
        log_decay: (B, L, H), natural logarithm of what is kept a step, <= 0.
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
    expect_shape("beta", beta, tuple(q.shape[:3]))
    expect_shape("log_decay", log_decay, tuple(q.shape[:3]))
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    output, state = chunk_gated_delta_rule(q, k, v, beta, log_decay, scale, initial_state, chunk_size)
    return output, state if output_final_state else None
