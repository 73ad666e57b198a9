"""Cross-entropy of a linear head over chunks of tokens: the logits of one chunk at a time, in both directions."""

from collections.abc import Iterator

import torch
from torch import Tensor

from asiarch.kernels.cross_entropy.softmax import logit_slopes, token_losses
from asiarch.kernels.shapes import compute_dtype

CHUNK_LOGITS = 1 << 24  # of a chunk: 64 MB in float32


def _slices(tokens: int, vocabulary: int, chunk_logits: int) -> Iterator[slice]:
    size = max(1, chunk_logits // vocabulary)
    for start in range(0, tokens, size):
        yield slice(start, min(start + size, tokens))


@torch.library.custom_op("asiarch::linear_cross_entropy", mutates_args=())
def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, ignore_index: int, chunk_logits: int
) -> tuple[Tensor, Tensor]:
    """The loss of each token and the logsumexp of its logits, both (T,); hidden (T, D), weight (V, D), targets (T,)."""
    losses = hidden.new_empty(len(targets), dtype=compute_dtype(hidden))
    normalizers = torch.empty_like(losses)
    for part in _slices(len(targets), len(weight), chunk_logits):
        logits = hidden[part] @ weight.mT
        losses[part], normalizers[part] = token_losses(logits, targets[part], ignore_index)
    return losses, normalizers


@linear_cross_entropy.register_fake
def _(
    hidden: Tensor, weight: Tensor, targets: Tensor, ignore_index: int, chunk_logits: int
) -> tuple[Tensor, Tensor]:
    losses = hidden.new_empty(targets.shape[0], dtype=compute_dtype(hidden))
    return losses, torch.empty_like(losses)


@torch.library.custom_op("asiarch::linear_cross_entropy_backward", mutates_args=())
def linear_cross_entropy_backward(
    gradient: Tensor,
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    normalizers: Tensor,
    ignore_index: int,
    chunk_logits: int,
) -> tuple[Tensor, Tensor]:
    """The gradients of hidden and weight; the logits are computed again, chunk by chunk."""
    hidden_gradient = torch.empty_like(hidden)
    weight_gradient = torch.zeros_like(weight, dtype=compute_dtype(hidden))
    for part in _slices(len(targets), len(weight), chunk_logits):
        logits = hidden[part] @ weight.mT
        slope = logit_slopes(logits, targets[part], normalizers[part], gradient[part], ignore_index)
        hidden_gradient[part] = slope @ weight
        weight_gradient += slope.mT @ hidden[part]
    return hidden_gradient, weight_gradient.to(weight.dtype)


@linear_cross_entropy_backward.register_fake
def _(
    gradient: Tensor,
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    normalizers: Tensor,
    ignore_index: int,
    chunk_logits: int,
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(hidden), torch.empty_like(weight)
