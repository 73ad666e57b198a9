"""Blockwise sliding window attention against a full masked softmax."""

import itertools
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from asiarch.kernels import sliding_window_attention
from asiarch.kernels.sliding_window_attention.naive import naive_sliding_window_attention


def inputs(length: int, key_dim: int, value_dim: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(length)
    return [
        torch.randn(2, length, 3, d, generator=generator, dtype=torch.float64)
        for d in (key_dim, key_dim, value_dim)
    ]


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    length=st.integers(1, 40),
    window=st.integers(1, 45),
    key_dim=st.integers(1, 9),
    value_dim=st.integers(1, 9),
    dtype=st.sampled_from([torch.float64, torch.float32]),
)
def test_equals_a_masked_softmax(
    length: int,
    window: int,
    key_dim: int,
    value_dim: int,
    dtype: torch.dtype,
    same_function: Callable[..., None],
) -> None:
    def fast(q: Tensor, k: Tensor, v: Tensor) -> Sequence[Tensor]:
        return (sliding_window_attention(q, k, v, window, scale=0.7),)

    def naive(q: Tensor, k: Tensor, v: Tensor) -> Sequence[Tensor]:
        return (naive_sliding_window_attention(q, k, v, window, 0.7),)

    same_function(fast, naive, inputs(length, key_dim, value_dim), dtype)


def test_a_window_of_one_reads_only_itself() -> None:
    q, k, v = inputs(9, 4, 5)
    torch.testing.assert_close(sliding_window_attention(q, k, v, 1), v)


def test_bad_window_is_named() -> None:
    q, k, v = inputs(9, 4, 5)
    with pytest.raises(ValueError, match="window is 0"):
        sliding_window_attention(q, k, v, 0)


@pytest.mark.parametrize("window", [1, 5, 16, 70])
def test_documents_in_one_row_are_as_each_alone(window: int) -> None:
    lengths = [1, 16, 33, 4, 10]
    q, k, v = (x[:1].requires_grad_() for x in inputs(sum(lengths), 4, 5))
    borders = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)
    packed = sliding_window_attention(q, k, v, window, cu_seqlens=borders)
    weight = torch.linspace(0, 1, packed.numel(), dtype=torch.float64).view_as(packed)
    found = torch.autograd.grad((packed * weight).sum(), (q, k, v))
    parts = zip(*(x.split(lengths, dim=1) for x in (q, k, v)), strict=True)
    alone = torch.cat([naive_sliding_window_attention(*part, window, 4**-0.5) for part in parts], dim=1)
    torch.testing.assert_close(packed, alone)
    for one, two in zip(found, torch.autograd.grad((alone * weight).sum(), (q, k, v)), strict=True):
        torch.testing.assert_close(one, two)
