"""The short convolution against PyTorch's, and against its sum with a state."""

from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from asiarch.kernels import short_convolution
from asiarch.kernels.short_convolution.naive import naive_short_convolution


def inputs(length: int, width: int) -> list[Tensor]:
    """x, weight, bias, initial state."""
    generator = torch.Generator().manual_seed(length)
    shapes = ((2, length, 5), (5, width), (5,), (2, width - 1, 5))
    return [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]


def fast(x: Tensor, weight: Tensor, bias: Tensor, state: Tensor) -> Sequence[Tensor]:
    y, last = short_convolution(x, weight, bias, initial_state=state, output_final_state=True)
    assert last is not None
    return y, last


@settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    length=st.integers(1, 20),
    width=st.integers(2, 6),
    dtype=st.sampled_from([torch.float64, torch.float32]),
)
def test_equals_the_sum(
    length: int, width: int, dtype: torch.dtype, same_function: Callable[..., None]
) -> None:
    same_function(fast, naive_short_convolution, inputs(length, width), dtype)


def test_equals_a_padded_depthwise_convolution() -> None:
    x, weight, bias, _ = inputs(17, 4)
    padded = functional.pad(x.mT, (3, 0))
    expected = functional.silu(functional.conv1d(padded, weight.unsqueeze(1), bias, groups=5).mT)
    actual, nothing = short_convolution(x, weight, bias, activation="silu")
    torch.testing.assert_close(actual, expected)
    assert nothing is None


@pytest.mark.parametrize("cut", [1, 2, 9])
def test_two_parts_with_the_state_carried_are_one_pass(cut: int) -> None:
    x, weight, bias, state = inputs(17, 4)
    whole, last = fast(x, weight, bias, state)
    first, middle = fast(x[:, :cut], weight, bias, state)
    second, end = fast(x[:, cut:], weight, bias, middle)
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole)
    torch.testing.assert_close(end, last)


def test_bad_arguments_are_named() -> None:
    x, weight, _, _ = inputs(17, 4)
    with pytest.raises(ValueError, match="weight has shape"):
        short_convolution(x, weight.mT)
    with pytest.raises(ValueError, match="activation is 'relu'"):
        short_convolution(x, weight, activation="relu")  # type: ignore[arg-type]
