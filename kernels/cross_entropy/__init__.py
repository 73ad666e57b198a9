"""Cross-entropy of a linear head, without its logits in memory."""

from typing import Any, Literal

import torch
from torch import Tensor

from asiarch.kernels.cross_entropy.chunk import (
    CHUNK_LOGITS,
    linear_cross_entropy,
    linear_cross_entropy_backward,
)
from asiarch.kernels.shapes import expect_shape

__all__ = ["fused_linear_cross_entropy"]


def fused_linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    ignore_index: int = -100,
    reduction: Literal["mean", "sum", "none"] = "mean",
    chunk_logits: int = CHUNK_LOGITS,
) -> Tensor:
    """cross_entropy(hidden @ weight.T, targets), in nats, with the logits of one chunk of tokens at a time.

    The backward pass computes each chunk's logits again: one more matrix product, and neither logits nor gradients
    of them are kept. Product in hidden's dtype, or autocast's; loss and softmax in float32 or above.

    Args:
        hidden: (..., D).
        weight: (V, D), cast to hidden's dtype.
        targets: (...), int64, in [0, V) or ignore_index.
        ignore_index: a target that counts as no token: loss 0, no gradient, left out of the mean.
        reduction: "mean" over the targets that are not ignored (NaN if all are), "sum", or "none".
        chunk_logits: how many logits are in memory at a time, at least one token's.

    Returns:
        a float32 (or float64) scalar, or losses (...) for "none".

    Raises:
        ValueError: a shape or dtype does not fit, or the reduction is unknown.
        IndexError, on the CPU: a target is outside [0, V). On a GPU its loss and gradient are NaN.
    """
    if weight.dim() != 2 or hidden.dim() < 1 or weight.shape[1] != hidden.shape[-1]:
        raise ValueError(
            f"weight has shape {tuple(weight.shape)}, expected (vocabulary, {hidden.shape[-1:].numel()})"
        )
    expect_shape("targets", targets, tuple(hidden.shape[:-1]))
    if targets.dtype != torch.int64:
        raise ValueError(f"targets have dtype {targets.dtype}, expected int64")
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f'reduction is {reduction!r}, expected "mean", "sum" or "none"')
    if torch.is_autocast_enabled(hidden.device.type):
        hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type))
    losses, _ = linear_cross_entropy(
        hidden.reshape(-1, hidden.shape[-1]),
        weight.to(hidden.dtype),
        targets.reshape(-1),
        ignore_index,
        chunk_logits,
    )
    if reduction == "none":
        return losses.view(targets.shape)
    total: Tensor = losses.sum()
    return total / (targets != ignore_index).sum() if reduction == "mean" else total


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    hidden, weight, targets, ctx.ignore_index, ctx.chunk_logits = inputs
    ctx.save_for_backward(hidden, weight, targets, output[1])
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    gradients = linear_cross_entropy_backward(
        gradient, *ctx.saved_tensors, ctx.ignore_index, ctx.chunk_logits
    )
    return (*gradients, None, None, None)


linear_cross_entropy.register_autograd(_backward, setup_context=_setup)
