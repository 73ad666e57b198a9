"""What follows a chunk's logits: loss and logsumexp of each token, and the slopes of the logits."""

import torch
from torch import Tensor

from asiarch.kernels.dispatch import takes_triton
from asiarch.kernels.shapes import compute_dtype


def token_losses(logits: Tensor, targets: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """Losses and logsumexps (T,) in float32 or above, of logits (T, V)."""
    if takes_triton(logits):
        # imported here: it takes a second, and a machine without a GPU needs no triton
        from asiarch.kernels.cross_entropy.triton_softmax import triton_token_losses

        return triton_token_losses(logits, targets, ignore_index)
    logits = logits.to(compute_dtype(logits))
    ignored = targets == ignore_index
    chosen = logits.gather(1, targets.masked_fill(ignored, 0).unsqueeze(1)).squeeze(1)
    normalizers = logits.logsumexp(1)
    return (normalizers - chosen).masked_fill(ignored, 0), normalizers


def logit_slopes(
    logits: Tensor, targets: Tensor, normalizers: Tensor, gradient: Tensor, ignore_index: int
) -> Tensor:
    """gradient_t (softmax(logits_t) - onehot(target_t)) in the logits' dtype; it may take their place in memory."""
    if takes_triton(logits):
        from asiarch.kernels.cross_entropy.triton_softmax import triton_logit_slopes

        return triton_logit_slopes(logits, targets, normalizers, gradient, ignore_index)
    slope = (logits.to(compute_dtype(logits)) - normalizers.unsqueeze(1)).exp_()
    ignored = targets == ignore_index
    slope[torch.arange(len(slope), device=slope.device), targets.masked_fill(ignored, 0)] -= 1
    slope *= gradient.masked_fill(ignored, 0).unsqueeze(1)
    return slope.to(logits.dtype)
