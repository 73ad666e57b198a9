"""The short convolution as custom operators: how the Triton kernels are launched, their shapes, their gradients.

The forward pass keeps its arguments alone; the backward pass takes the sums before the activation again.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from asiarch.kernels.documents import chunk_table
from asiarch.kernels.short_convolution import triton_kernels as kernels

POSITIONS, WIDEST_BLOCK = 64, 64  # of a program's block
WARPS = 8


def channels_block(channels: int) -> int:
    return min(triton.next_power_of_2(channels), WIDEST_BLOCK)


def state_span(width: int) -> int:
    """A power of two that holds all rows of a state."""
    return triton.next_power_of_2(max(1, width - 1))


@dataclass
class Work:
    """The arguments, made contiguous, and what the kernels share."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    initial_state: Tensor | None
    table: tuple[Tensor | None, Tensor | None, Tensor | None]  # chunk starts, their documents, borders
    chunks: int
    documents: int

    @classmethod
    def of(
        cls,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        initial_state: Tensor | None,
        cu_seqlens: Tensor | None,
    ) -> "Work":
        batch, length = x.shape[:2]
        table: tuple[Tensor | None, Tensor | None, Tensor | None] = (None, None, None)
        chunks, documents = batch * triton.cdiv(length, POSITIONS), batch
        if cu_seqlens is not None:
            found = chunk_table(cu_seqlens, length, POSITIONS)
            table = (found.start, found.document, cu_seqlens.contiguous())
            chunks, documents = len(found.start), len(cu_seqlens) - 1
        bias, state = (None if t is None else t.contiguous() for t in (bias, initial_state))
        return cls(x.contiguous(), weight.contiguous(), bias, state, table, chunks, documents)

    @property
    def width(self) -> int:
        return self.weight.shape[1]

    @property
    def constants(self) -> dict[str, Any]:
        return {
            "D": self.x.shape[2],
            "W": self.width,
            "BT": POSITIONS,
            "BD": channels_block(self.x.shape[2]),
            "VARIED": self.table[2] is not None,
            "INITIAL": self.initial_state is not None,
            "num_warps": WARPS,
        }

    @property
    def grid(self) -> tuple[int, int]:
        return self.chunks, triton.cdiv(self.x.shape[2], channels_block(self.x.shape[2]))

    def state_like(self) -> Tensor:
        return self.x.new_empty(self.documents, self.width - 1, self.x.shape[2])


@torch.library.custom_op("asiarch::short_convolution", mutates_args=())
def short_convolution_op(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    silu: bool,
) -> tuple[Tensor, Tensor]:
    """`short_convolution` by a Triton kernel, with the last state; the initial one in x's dtype."""
    work = Work.of(x, weight, bias, initial_state, cu_seqlens)
    y, final = torch.empty_like(work.x), work.state_like()
    kernels.convolution_kernel[work.grid](
        work.x, work.weight, work.bias, work.initial_state, *work.table, y, final, x.shape[1],
        BS=state_span(work.width), BIAS=bias is not None, SILU=silu, **work.constants,
    )  # fmt: skip
    return y, final


@short_convolution_op.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    silu: bool,
) -> tuple[Tensor, Tensor]:
    documents = x.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    return x.new_empty(x.shape), x.new_empty(documents, weight.shape[1] - 1, x.shape[2])


@torch.library.custom_op("asiarch::short_convolution_backward", mutates_args=())
def short_convolution_backward_op(
    slope: Tensor,
    final_slope: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    silu: bool,
) -> list[Tensor]:
    """The gradients of x, weight, bias and the initial state; empty for those that are None."""
    work = Work.of(x, weight, bias, initial_state, cu_seqlens)
    slope, final_slope = slope.contiguous(), final_slope.contiguous()
    # float32: slopes of inputs are sums of these
    pre_slope = work.x.new_empty(work.x.shape, dtype=torch.float32) if silu else slope
    weight_slopes = x.new_empty(work.chunks, work.width, x.shape[2], dtype=torch.float32)
    bias_slopes = x.new_empty(work.chunks if bias is not None else 0, x.shape[2], dtype=torch.float32)
    kernels.weight_slopes_kernel[work.grid](
        work.x, work.weight, work.bias, work.initial_state, *work.table, slope, pre_slope,
        weight_slopes, bias_slopes, x.shape[1],
        BIAS=bias is not None, SILU=silu, **work.constants,
    )  # fmt: skip
    x_slope = torch.empty_like(work.x)
    initial_slope = x.new_empty(0) if initial_state is None else work.state_like()
    kernels.input_slopes_kernel[work.grid](
        work.weight, *work.table, pre_slope, final_slope, x_slope, initial_slope, x.shape[1],
        BS=state_span(work.width), **work.constants,
    )  # fmt: skip
    of_weight = weight_slopes.sum(0).mT.to(weight.dtype).contiguous()
    of_bias = x.new_empty(0) if bias is None else bias_slopes.sum(0).to(bias.dtype)
    return [x_slope, of_weight, of_bias, initial_slope]


@short_convolution_backward_op.register_fake
def _(slope: Tensor, final_slope: Tensor, *inputs: Any) -> list[Tensor]:
    return [slope.new_empty(0) if t is None else t.new_empty(t.shape) for t in inputs[:4]]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.silu = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, slope: Tensor, final_slope: Tensor) -> tuple[Tensor | None, ...]:
    slopes = short_convolution_backward_op(slope, final_slope, *ctx.saved_tensors, ctx.silu)
    given = zip(slopes, ctx.saved_tensors[:4], strict=True)
    return (*(None if t is None else of_t for of_t, t in given), None, None)


short_convolution_op.register_autograd(_backward, setup_context=_setup)
