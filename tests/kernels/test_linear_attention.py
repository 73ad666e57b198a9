"""Chunkwise linear attention against its recurrence."""

from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from asiarch.kernels import linear_attention
from asiarch.kernels.linear_attention.naive import naive_linear_attention

SCALE = 0.3
KINDS = ("none", "head", "channel")


def inputs(kind: str, length: int, key_dim: int = 8, value_dim: int = 6, seed: int = 0) -> list[Tensor]:
    """initial state, q, k, v, and the log decay if there is one."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "state": (2, 3, key_dim, value_dim),
        "q": (2, length, 3, key_dim),
        "k": (2, length, 3, key_dim),
        "v": (2, length, 3, value_dim),
    }
    tensors = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes.values()]
    if kind != "none":
        shape = shapes["q"] if kind == "channel" else shapes["q"][:3]
        tensors.append(-torch.rand(shape, generator=generator, dtype=torch.float64))
    return tensors


def fast(chunk_size: int) -> Callable[..., Sequence[Tensor]]:
    def run(state: Tensor, q: Tensor, k: Tensor, v: Tensor, decay: Tensor | None = None) -> Sequence[Tensor]:
        output, last = linear_attention(
            q, k, v, decay, scale=SCALE, initial_state=state, output_final_state=True, chunk_size=chunk_size
        )
        assert last is not None
        return output, last

    return run


def naive(state: Tensor, q: Tensor, k: Tensor, v: Tensor, decay: Tensor | None = None) -> Sequence[Tensor]:
    return naive_linear_attention(q, k, v, decay, SCALE, state)


@pytest.mark.parametrize("kind", KINDS)
@settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    length=st.integers(1, 70),
    key_dim=st.integers(1, 9),
    value_dim=st.integers(1, 9),
    chunk_size=st.sampled_from([1, 2, 8, 16, 32]),
    dtype=st.sampled_from([torch.float64, torch.float32]),
)
def test_equals_the_recurrence(
    kind: str,
    length: int,
    key_dim: int,
    value_dim: int,
    chunk_size: int,
    dtype: torch.dtype,
    same_function: Callable[..., None],
) -> None:
    same_function(fast(chunk_size), naive, inputs(kind, length, key_dim, value_dim, seed=length), dtype)


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_is_summed_in_float32(kind: str, same_function: Callable[..., None]) -> None:
    same_function(fast(32), naive, inputs(kind, 63), torch.bfloat16)


@pytest.mark.parametrize("kind", ["head", "channel"])
@pytest.mark.parametrize("strength", ["none", "strong", "uneven"])
def test_extreme_decay(kind: str, strength: str, same_function: Callable[..., None]) -> None:
    """-20 a step would overflow float32 five steps from a reference point."""
    *rest, decay = inputs(kind, 63)
    if strength == "none":
        decay = torch.zeros_like(decay)
    elif strength == "strong":
        decay = torch.full_like(decay, -20.0)
    else:
        decay = torch.where(decay < -0.5, -20.0, 0.0).to(decay)
    # The gradient to such a decay is about exp(-20), a difference of sums of order 1: it has their rounding.
    same_function(fast(32), naive, [*rest, decay], torch.float32, least_scale=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_by_finite_differences(kind: str) -> None:
    state, *rest = inputs(kind, 7, 3, 2)
    leaves = [x[:, :, :1].requires_grad_() for x in rest]
    assert torch.autograd.gradcheck(fast(4), (state[:, :1].requires_grad_(), *leaves))


@pytest.mark.parametrize("kind", KINDS)
def test_two_parts_with_the_state_carried_are_one_pass(kind: str) -> None:
    state, *tensors = inputs(kind, 50)
    whole, last = fast(16)(state, *tensors)
    first, middle = fast(16)(state, *(x[:, :21] for x in tensors))
    second, end = fast(16)(middle, *(x[:, 21:] for x in tensors))
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole)
    torch.testing.assert_close(end, last)


def test_defaults_are_no_state_and_the_usual_scale() -> None:
    state, q, k, v = inputs("none", 5)
    expected, _ = naive_linear_attention(q, k, v, None, q.shape[-1] ** -0.5, torch.zeros_like(state))
    actual, nothing = linear_attention(q, k, v)
    torch.testing.assert_close(actual, expected)
    assert nothing is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": torch.zeros(2, 5, 3, 7)}, "k has shape"),
        ({"v": torch.zeros(2, 4, 3, 6)}, "v has shape"),
        ({"log_decay": torch.zeros(2, 5)}, "log_decay has shape"),
        ({"initial_state": torch.zeros(2, 3, 6, 8)}, "initial_state has shape"),
        ({"chunk_size": 48}, "power of two"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, object], message: str) -> None:
    _, q, k, v = inputs("none", 5)
    arguments: dict[str, object] = {"q": q, "k": k, "v": v, **change}
    with pytest.raises(ValueError, match=message):
        linear_attention(**arguments)  # type: ignore[arg-type]
