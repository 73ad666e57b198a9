"""The norms against their formulas in float64."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from asiarch.kernels import gated_rms_norm, l2_norm, rms_norm
from asiarch.kernels.normalization.naive import naive_gated_rms_norm, naive_rms_norm

DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)


def inputs() -> list[Tensor]:
    """x, weight, gate."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(s, generator=generator, dtype=torch.float64) for s in ((2, 7, 3, 5), (5,), (2, 7, 3, 5))
    ]


@DTYPES
def test_rms_norm(dtype: torch.dtype, same_function: Callable[..., None]) -> None:
    same_function(
        lambda x, weight: (rms_norm(x, weight, eps=1e-3),),
        lambda x, weight: (naive_rms_norm(x, weight, 1e-3),),
        inputs()[:2],
        dtype,
    )


@DTYPES
def test_gated_rms_norm(dtype: torch.dtype, same_function: Callable[..., None]) -> None:
    same_function(
        lambda x, weight, gate: (gated_rms_norm(x, gate, weight),),
        lambda x, weight, gate: (naive_gated_rms_norm(x, gate, weight, 1e-5),),
        inputs(),
        dtype,
    )


@DTYPES
def test_l2_norm(dtype: torch.dtype, same_function: Callable[..., None]) -> None:
    def formula(x: Tensor) -> Sequence[Tensor]:
        return (x / (x.pow(2).sum(-1, keepdim=True) + 1e-6).sqrt(),)

    same_function(lambda x: (l2_norm(x),), formula, inputs()[:1], dtype)


def test_l2_norm_has_a_finite_gradient_at_zero() -> None:
    x = torch.zeros(2, 3, requires_grad=True)
    l2_norm(x).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_bad_shapes_are_named() -> None:
    with pytest.raises(ValueError, match="weight has shape"):
        rms_norm(torch.zeros(2, 3), torch.ones(2))
    with pytest.raises(ValueError, match="gate has shape"):
        gated_rms_norm(torch.zeros(2, 3), torch.zeros(3), torch.ones(3))
