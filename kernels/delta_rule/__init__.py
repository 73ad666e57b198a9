"""The delta rule: replace what the memory holds for a key by a new value."""

from torch import Tensor

from asiarch.kernels.delta_rule.chunk import chunk_delta_rule
from asiarch.kernels.shapes import expect_qkv, expect_shape

__all__ = ["delta_rule"]


def delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    *,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    chunk_size: int = 32,
) -> tuple[Tensor, Tensor | None]:
    """S_t = (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T;  o_t = scale q_t^T S_t.

    Schlag, Irie and Schmidhuber, "Linear Transformers Are Secretly Fast Weight Programmers", 2021;
    over chunks as in Yang et al., "Parallelizing Linear Transformers with the Delta Rule", 2024.

    Args:
        q, k: (B, L, H, K). Keys of length 1 or less keep the state bounded (beta |k|^2 <= 2).
        v: (B, L, H, V).
        beta: (B, L, H), in [0, 2]: how much of the old value is replaced.
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
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    output, state = chunk_delta_rule(q, k, v, beta, scale, initial_state, chunk_size)
    return output, state if output_final_state else None
