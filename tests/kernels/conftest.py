"""Inputs of the operators, and the measure by which two implementations are compared."""

from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import Tensor

# Root mean square of the error over that of the reference. Where keys nearly repeat and beta is near 2 the
# delta rule's own condition multiplies the rounding; the operators' tests stay below that.
BOUNDS = {torch.float64: 1e-10, torch.float32: 3e-5, torch.bfloat16: 1e-2}


@pytest.fixture(autouse=True)
def _fill_empty_with_nan() -> Iterator[None]:
    """A read of memory that was never written shows as NaN: PyTorch fills it so in its deterministic mode."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


def error_ratio(actual: Tensor, expected: Tensor, least_scale: float) -> float:
    """Root mean square of the difference over that of the reference (`least_scale` or more)."""
    difference = (actual.double() - expected.double()).square().mean().sqrt().item()
    return difference / max(expected.double().square().mean().sqrt().item(), least_scale)


def assert_same_function(
    fast: Callable[..., Sequence[Tensor]],
    reference: Callable[..., Sequence[Tensor]],
    inputs: Sequence[Tensor],
    dtype: torch.dtype,
    least_scale: float = 1e-3,
) -> None:
    """Outputs and all gradients of `fast` in `dtype` against those of `reference` in float64."""
    results = []
    for function, precision in ((fast, dtype), (reference, torch.float64)):
        # round first, so that both see the same numbers
        arguments = [x.to(dtype).to(precision).requires_grad_() for x in inputs]
        outputs = function(*arguments)
        generator = torch.Generator().manual_seed(1)
        loss = sum(
            (output.double() * torch.randn(output.shape, generator=generator, dtype=torch.float64)).sum()
            for output in outputs
        )
        assert isinstance(loss, Tensor)
        results.append([*outputs, *torch.autograd.grad(loss, arguments)])
    for position, (actual, expected) in enumerate(zip(*results, strict=True)):
        assert actual.shape == expected.shape
        ratio = error_ratio(actual.detach(), expected.detach(), least_scale)
        assert ratio < BOUNDS[dtype], f"tensor {position} of outputs and gradients is off by {ratio:.1e}"


@pytest.fixture
def same_function() -> Callable[..., None]:
    """`assert_same_function`, for test files that cannot import from this one."""
    return assert_same_function
