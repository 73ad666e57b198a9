"""The recurrence that linear attention and the delta rules share, and the choice of its implementation."""

import torch
from torch import Tensor

from asiarch.kernels.chunking import expect_chunk_size
from asiarch.kernels.dispatch import takes_triton
from asiarch.kernels.documents import expect_documents
from asiarch.kernels.recurrence.chunk import chunk_recurrence
from asiarch.kernels.recurrence.step import step_recurrence
from asiarch.kernels.shapes import expect_qkv, expect_shape

__all__ = ["recurrence"]

# exp of it is nothing beside 1 even in float64, and the sums of a chunk stay small enough for exact differences
LEAST_LOG_DECAY = -50.0
WIDEST_HEAD = 256  # that the Triton kernels take
CPU_CHUNK = 32  # the fastest on one CPU thread at length 256 and dimension 32


def recurrence(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    beta: Tensor | None,
    log_decay: Tensor | None,
    scale: float | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    chunk_size: int | None,
) -> tuple[Tensor, Tensor]:
    """S_t = D_t S_{t-1} + k_t w_t^T with w_t = v_t, or beta_t (v_t - (D_t S_{t-1})^T k_t);  o_t = scale q_t^T S_t.

    D_t is exp(log_decay_t), a number a head (B, L, H) or a diagonal (B, L, H, K), or 1. The other shapes, and the
    errors, are those of the public operators. Gives o and the last state.
    """
    documents = None if cu_seqlens is None else expect_documents(cu_seqlens, q.shape[0], q.shape[1])
    expect_qkv(q, k, v, initial_state, documents)
    if beta is not None:
        expect_shape("beta", beta, tuple(q.shape[:3]))
    if log_decay is not None:
        expect_shape("log_decay", log_decay, tuple(q.shape if log_decay.dim() == 4 else q.shape[:3]))
        log_decay = log_decay.clamp(min=LEAST_LOG_DECAY)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if q.shape[1] == 1 and cu_seqlens is None:
        return step_recurrence(q, k, v, beta, log_decay, scale, initial_state)
    if chunk_size is not None:
        expect_chunk_size(chunk_size)
    if takes_triton(q, k, v) and max(q.shape[-1], v.shape[-1]) <= WIDEST_HEAD:
        # imported here: it takes a second, and a machine without a GPU needs no triton
        from asiarch.kernels.recurrence.triton_op import chunk_size_for, is_exact, recurrence_op

        dtype = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
        tensors = (q.to(dtype), k.to(dtype), v.to(dtype), beta, log_decay, initial_state, cu_seqlens)
        size = chunk_size_for(q.shape[-1], v.shape[-1], is_exact(dtype, beta is not None))
        size = size if chunk_size is None else min(size, max(16, chunk_size))
        output, state = recurrence_op(*tensors, scale, size)
        return output.to(v.dtype), state
    size = CPU_CHUNK if chunk_size is None else chunk_size
    return chunk_recurrence(q, k, v, beta, log_decay, scale, initial_state, cu_seqlens, size)
