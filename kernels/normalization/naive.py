"""The norms as their formulas: the definition."""

import torch
from torch import Tensor


def naive_rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight. Shapes as in `rms_norm`."""
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight


def naive_gated_rms_norm(x: Tensor, gate: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The same times gate / (1 + exp(-gate)). Shapes as in `gated_rms_norm`."""
    return naive_rms_norm(x, weight, eps) * gate / (1 + torch.exp(-gate))
