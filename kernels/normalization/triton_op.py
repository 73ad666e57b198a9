"""RMSNorm as custom operators: how the Triton kernels are launched, their shapes, their gradients.

The forward pass keeps its arguments alone; the backward pass takes the mean squares again.
"""

from typing import Any

import torch
import triton
from torch import Tensor

from asiarch.kernels.normalization.triton_kernels import norm_backward_kernel, norm_kernel

WIDEST_BLOCK = 256  # of columns
BLOCK = 4096  # elements of a program's block
WARPS = 8


def blocks(channels: int) -> dict[str, int]:
    """The rows and columns of a program's block."""
    columns = min(triton.next_power_of_2(channels), WIDEST_BLOCK)
    return {"BN": BLOCK // columns, "BD": columns}


@torch.library.custom_op("asiarch::rms_norm", mutates_args=())
def rms_norm_op(x: Tensor, weight: Tensor, gate: Tensor | None, eps: float) -> Tensor:
    """`rms_norm`, or `gated_rms_norm` with a gate, by a Triton kernel."""
    channels = x.shape[-1]
    x, weight, gate = x.contiguous(), weight.contiguous(), None if gate is None else gate.contiguous()
    y = torch.empty_like(x, dtype=_output_dtype(x, gate))
    rows, sizes = x.numel() // channels, blocks(channels)
    norm_kernel[(triton.cdiv(rows, sizes["BN"]),)](
        x, weight, gate, y, eps, rows, channels, **sizes, GATED=gate is not None, num_warps=WARPS
    )
    return y


@rms_norm_op.register_fake
def _(x: Tensor, weight: Tensor, gate: Tensor | None, eps: float) -> Tensor:
    return x.new_empty(x.shape, dtype=_output_dtype(x, gate))


def _output_dtype(x: Tensor, gate: Tensor | None) -> torch.dtype:
    return x.dtype if gate is None else torch.promote_types(x.dtype, gate.dtype)


@torch.library.custom_op("asiarch::rms_norm_backward", mutates_args=())
def rms_norm_backward_op(
    slope: Tensor, x: Tensor, weight: Tensor, gate: Tensor | None, eps: float
) -> list[Tensor]:
    """The gradients of x, the weight and the gate; the last is empty without one."""
    channels = x.shape[-1]
    slope, x, weight = slope.contiguous(), x.contiguous(), weight.contiguous()
    gate = None if gate is None else gate.contiguous()
    rows, sizes = x.numel() // channels, blocks(channels)
    programs = triton.cdiv(rows, sizes["BN"])
    x_slope, gate_slope = torch.empty_like(x), x.new_empty(0) if gate is None else torch.empty_like(gate)
    weight_slopes = x.new_empty(programs, channels, dtype=torch.float32)
    norm_backward_kernel[(programs,)](
        x, weight, gate, slope, x_slope, gate_slope, weight_slopes, eps, rows, channels,
        **sizes, GATED=gate is not None, num_warps=WARPS,
    )  # fmt: skip
    return [x_slope, weight_slopes.sum(0).to(weight.dtype), gate_slope]


@rms_norm_backward_op.register_fake
def _(slope: Tensor, x: Tensor, weight: Tensor, gate: Tensor | None, eps: float) -> list[Tensor]:
    return [x.new_empty(0) if t is None else t.new_empty(t.shape) for t in (x, weight, gate)]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.eps = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
    of_x, of_weight, of_gate = rms_norm_backward_op(slope, *ctx.saved_tensors, ctx.eps)
    return of_x, of_weight, None if ctx.saved_tensors[2] is None else of_gate, None


rms_norm_op.register_autograd(_backward, setup_context=_setup)
