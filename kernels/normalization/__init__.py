"""Normalisation of the last dimension: RMSNorm, RMSNorm with a gate, and the L2 norm."""

import torch
from torch import Tensor
from torch.nn import functional

from asiarch.kernels.dispatch import takes_triton
from asiarch.kernels.shapes import compute_dtype, expect_shape

__all__ = ["gated_rms_norm", "l2_norm", "rms_norm"]


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-5) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight, over the last dimension.

    Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019.

    Args:
        x: (..., D).
        weight: (D,).
        eps: keeps the root away from zero.

    Returns:
        (..., D) in x's dtype; the mean is taken in float32 or above.

    Raises:
        ValueError: the weight's shape does not fit.
    """
    expect_shape("weight", weight, (x.shape[-1],))
    if takes_triton(x, weight):
        # imported here: it takes a second, and a machine without a GPU needs no triton
        from asiarch.kernels.normalization.triton_op import rms_norm_op

        return rms_norm_op(x, weight, None, eps)
    dtype = compute_dtype(x)
    return functional.rms_norm(x.to(dtype), (x.shape[-1],), weight.to(dtype), eps).to(x.dtype)


def gated_rms_norm(x: Tensor, gate: Tensor, weight: Tensor, eps: float = 1e-5) -> Tensor:
    """rms_norm(x) * silu(gate): the output norm of RetNet, GLA and Gated DeltaNet.

    Args and errors as in `rms_norm`; gate has x's shape, and the result the wider dtype of the two.
    """
    expect_shape("gate", gate, tuple(x.shape))
    expect_shape("weight", weight, (x.shape[-1],))
    if takes_triton(x, gate, weight):
        from asiarch.kernels.normalization.triton_op import rms_norm_op

        return rms_norm_op(x, weight, gate, eps)
    return rms_norm(x, weight, eps) * functional.silu(gate)


def l2_norm(x: Tensor, eps: float = 1e-6) -> Tensor:
    """x / sqrt(sum(x^2) + eps) over the last dimension: (..., D) -> (..., D) in x's dtype, length 1.

    The sum is taken in float32 or above. `eps` stands under the root, so the gradient is finite at x = 0.
    """
    wide = x.to(compute_dtype(x))
    return (wide * torch.rsqrt(wide.square().sum(-1, keepdim=True) + eps)).to(x.dtype)
