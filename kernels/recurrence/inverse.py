"""The inverse of I + A for a strictly lower triangular A.

By substitution. The product of (I + (-A)^(2^i)) is the same in exact arithmetic and pure matrix products, but
in float32 it is wrong by many orders of magnitude where keys repeat and beta is near 2: its terms grow as
binomials and cancel.
"""

from typing import Any

import torch
from torch import Tensor


class _UnitLowerInverse(torch.autograd.Function):
    # PyTorch would differentiate the solve by a second solve; with the inverse, two products are faster.
    @staticmethod
    def forward(ctx: Any, strictly_lower: Tensor) -> Tensor:
        identity = torch.eye(
            strictly_lower.shape[-1], dtype=strictly_lower.dtype, device=strictly_lower.device
        ).expand_as(strictly_lower)
        inverse = torch.linalg.solve_triangular(strictly_lower, identity, upper=False, unitriangular=True)
        ctx.save_for_backward(inverse)
        return inverse

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (inverse,) = ctx.saved_tensors
        return -(inverse.mT @ gradients[0] @ inverse.mT)


def unit_lower_inverse(strictly_lower: Tensor) -> Tensor:
    """(I + A)^-1 for A (..., C, C). A must be zero on and above the diagonal."""
    inverse: Tensor = _UnitLowerInverse.apply(strictly_lower)
    return inverse
