"""A short causal convolution, one filter a channel."""

from typing import Literal

from torch import Tensor
from torch.nn import functional

from asiarch.kernels.dispatch import takes_triton
from asiarch.kernels.documents import expect_documents
from asiarch.kernels.shapes import expect_shape
from asiarch.kernels.short_convolution.chunk import chunk_short_convolution
from asiarch.kernels.short_convolution.step import step_short_convolution

__all__ = ["short_convolution"]


def short_convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: Literal["silu"] | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """y_t = activation(bias + sum_i weight[:, i] x_{t - width + 1 + i}), elementwise over channels.

    Fu et al., "Hungry Hungry Hippos", 2023; Gu and Dao, "Mamba", 2023. The last tap is the present position.

    Args:
        x: (B, L, D), L >= 1.
        weight: (D, width).
        bias: (D,) or None.
        activation: None or "silu".
        initial_state: the inputs before the first position, oldest first, (B, width - 1, D), or
            (documents, width - 1, D) with cu_seqlens; zeros if None.
        output_final_state: also return the last width - 1 inputs, of each document with cu_seqlens.
        cu_seqlens: (documents + 1,) int32 or int64, for documents laid end to end in one row (B = 1): where each
            starts, and L. None of them reads another.

    Returns:
        y (B, L, D) in x's dtype, and the state, shaped as initial_state, or None. Sums are taken in float32, or
        float64 for float64 inputs.

    Raises:
        ValueError: a shape or cu_seqlens does not fit, or the activation is unknown.
    """
    if x.dim() != 3 or x.shape[1] < 1:
        raise ValueError(f"x has shape {tuple(x.shape)}, expected (batch, length >= 1, channels)")
    batch, length, channels = x.shape
    if weight.dim() != 2 or weight.shape[0] != channels or weight.shape[1] < 1:
        raise ValueError(f"weight has shape {tuple(weight.shape)}, expected ({channels}, width >= 1)")
    rows = batch if cu_seqlens is None else expect_documents(cu_seqlens, batch, length)
    if bias is not None:
        expect_shape("bias", bias, (channels,))
    if initial_state is not None:
        expect_shape("initial_state", initial_state, (rows, weight.shape[1] - 1, channels))
    if activation not in (None, "silu"):
        raise ValueError(f'activation is {activation!r}, expected None or "silu"')
    if length == 1 and cu_seqlens is None:
        y, state = step_short_convolution(x, weight, bias, initial_state)
    elif takes_triton(x, weight, *(t for t in (bias, initial_state) if t is not None)):
        # imported here: it takes a second, and a machine without a GPU needs no triton
        from asiarch.kernels.short_convolution.triton_op import short_convolution_op

        past = None if initial_state is None else initial_state.to(x.dtype)
        y, state = short_convolution_op(x, weight, bias, past, cu_seqlens, activation == "silu")
        return y, state if output_final_state else None
    else:
        y, state = chunk_short_convolution(x, weight, bias, initial_state, cu_seqlens)
    y = functional.silu(y) if activation == "silu" else y
    return y.to(x.dtype), state if output_final_state else None
