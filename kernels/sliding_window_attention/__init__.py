"""Causal softmax attention over the last few positions."""

from torch import Tensor

from asiarch.kernels.documents import document_of, expect_documents
from asiarch.kernels.shapes import expect_qkv
from asiarch.kernels.sliding_window_attention.chunk import chunk_sliding_window_attention

__all__ = ["sliding_window_attention"]


def sliding_window_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: int,
    *,
    scale: float | None = None,
    cu_seqlens: Tensor | None = None,
) -> Tensor:
    """o_i = sum over i - window < j <= i of softmax_j(scale q_i^T k_j) v_j. Cost: L * window.

    Beltagy, Peters and Cohan, "Longformer", 2020; causal as in Jiang et al., "Mistral 7B", 2023.

    Args:
        q, k: (B, L, H, K).
        v: (B, L, H, V).
        window: how many positions each one reads, itself included, >= 1.
        scale: factor of the scores, K**-0.5 if None.
        cu_seqlens: (documents + 1,) int32 or int64, for documents laid end to end in one row (B = 1): where each
            starts and, last, L. No position reads another document's.

    Returns:
        o (B, L, H, V).

    Raises:
        ValueError: a shape does not fit, or the window is below 1.
    """
    expect_qkv(q, k, v, None)
    if window < 1:
        raise ValueError(f"window is {window}, expected at least 1")
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    document = None
    if cu_seqlens is not None:
        expect_documents(cu_seqlens, q.shape[0], q.shape[1])
        document = document_of(cu_seqlens, q.shape[1])
    return chunk_sliding_window_attention(q, k, v, window, scale, document)
