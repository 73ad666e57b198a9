"""Cross-entropy of a linear head from all of its logits: the definition."""

from torch import Tensor

from asiarch.kernels.shapes import compute_dtype


def naive_linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, ignore_index: int) -> Tensor:
    """logsumexp_v(weight hidden_t) - (weight hidden_t)[target_t], 0 where the target is ignored. As `linear_...`."""
    dtype = compute_dtype(hidden, weight)
    logits = hidden.to(dtype) @ weight.to(dtype).mT
    ignored = targets == ignore_index
    chosen = logits.gather(-1, targets.masked_fill(ignored, 0).unsqueeze(-1)).squeeze(-1)
    return (logits.logsumexp(-1) - chosen).masked_fill(ignored, 0)
