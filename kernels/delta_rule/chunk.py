"""The delta rule over chunks: the gated rule's code, with the decay left out."""

from torch import Tensor

from asiarch.kernels.gated_delta_rule.chunk import chunk_gated_delta_rule


def chunk_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    scale: float,
    initial_state: Tensor | None,
    chunk_size: int,
) -> tuple[Tensor, Tensor]:
    """The same function as `naive_delta_rule`, up to rounding, for any length."""
    return chunk_gated_delta_rule(q, k, v, beta, None, scale, initial_state, chunk_size)
