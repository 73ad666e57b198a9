"""The chunkwise delta rule and gated delta rule against their recurrences."""

from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from asiarch.kernels import delta_rule, gated_delta_rule
from asiarch.kernels.delta_rule.naive import naive_delta_rule
from asiarch.kernels.gated_delta_rule.naive import naive_gated_delta_rule
from asiarch.kernels.recurrence.inverse import unit_lower_inverse

SCALE = 0.3
KINDS = ("none", "head", "channel")
DECAYS = pytest.mark.parametrize("decays", KINDS)


def inputs(decays: str, length: int, key_dim: int = 8, value_dim: int = 6, seed: int = 0) -> list[Tensor]:
    """initial state, q, k (of length 1), v, beta in [0, 2], and the log decay if there is one."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    q, k = normal(2, length, 3, key_dim), functional.normalize(normal(2, length, 3, key_dim), dim=-1)
    beta = 2 * torch.rand(2, length, 3, generator=generator, dtype=torch.float64)
    tensors = [normal(2, 3, key_dim, value_dim), q, k, normal(2, length, 3, value_dim), beta]
    if decays == "none":
        return tensors
    return [*tensors, -normal(*(q.shape if decays == "channel" else q.shape[:3])).abs()]


def fast(chunk_size: int) -> Callable[..., Sequence[Tensor]]:
    def run(state: Tensor, *tensors: Tensor) -> Sequence[Tensor]:
        rule: Callable[..., tuple[Tensor, Tensor | None]] = (
            delta_rule if len(tensors) == 4 else gated_delta_rule
        )
        output, last = rule(
            *tensors, scale=SCALE, initial_state=state, output_final_state=True, chunk_size=chunk_size
        )
        assert last is not None
        return output, last

    return run


def naive(state: Tensor, q: Tensor, k: Tensor, v: Tensor, *rates: Tensor) -> Sequence[Tensor]:
    if len(rates) == 1:
        return naive_delta_rule(q, k, v, rates[0], SCALE, state)
    beta, log_decay = rates
    return naive_gated_delta_rule(q, k, v, beta, log_decay, SCALE, state)


@DECAYS
@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    length=st.integers(1, 70),
    key_dim=st.integers(2, 9),
    value_dim=st.integers(1, 9),
    chunk_size=st.sampled_from([1, 2, 8, 16, 32]),
    dtype=st.sampled_from([torch.float64, torch.float32]),
)
def test_equals_the_recurrence(
    decays: str,
    length: int,
    key_dim: int,
    value_dim: int,
    chunk_size: int,
    dtype: torch.dtype,
    same_function: Callable[..., None],
) -> None:
    same_function(fast(chunk_size), naive, inputs(decays, length, key_dim, value_dim, seed=length), dtype)


@DECAYS
def test_bfloat16_is_summed_in_float32(decays: str, same_function: Callable[..., None]) -> None:
    state, q, k, v, beta, *decay = inputs(decays, 63)
    # rounded keys are a little longer than 1, so beta stays clear of 2
    same_function(fast(32), naive, [state, q, k, v, beta / 2, *decay], torch.bfloat16)


@DECAYS
@pytest.mark.parametrize("rate", [0.0, 1.0, 2.0])
def test_beta_at_its_edges(decays: str, rate: float, same_function: Callable[..., None]) -> None:
    state, q, k, v, beta, *decay = inputs(decays, 63)
    same_function(fast(32), naive, [state, q, k, v, torch.full_like(beta, rate), *decay], torch.float32)


@DECAYS
@pytest.mark.parametrize("rate", [1.0, 1.9, 2.0])
def test_one_key_again_and_again(decays: str, rate: float, same_function: Callable[..., None]) -> None:
    """Here an inverse made of matrix powers is wrong by orders of magnitude in float32."""
    state, q, k, v, beta, *decay = inputs(decays, 63)
    k = k[:, :1].expand_as(k)
    same_function(fast(32), naive, [state, q, k, v, torch.full_like(beta, rate), *decay], torch.float64)
    actual, _ = fast(32)(*(x.float() for x in (state, q, k, v, torch.full_like(beta, rate), *decay)))
    expected, _ = naive(state, q, k, v, torch.full_like(beta, rate), *decay)
    assert (actual - expected).square().mean().sqrt() < 1e-4 * expected.square().mean().sqrt()


@pytest.mark.parametrize("decays", KINDS[1:])
@pytest.mark.parametrize("strength", [0.0, -20.0, -1e30])
def test_extreme_decay(decays: str, strength: float, same_function: Callable[..., None]) -> None:
    *rest, decay = inputs(decays, 63)
    # The gradient to such a decay is about exp(-20), a difference of sums of order 1: it has their rounding.
    same_function(fast(32), naive, [*rest, torch.full_like(decay, strength)], torch.float32, least_scale=0.01)


@pytest.mark.parametrize("decays", KINDS[1:])
def test_what_lies_behind_a_reset_keeps_its_own_decay(decays: str) -> None:
    """A running sum that a reset of -1e30, or -inf, swallows would lose the gentle decays behind it."""
    *rest, decay = inputs(decays, 63)
    resets = torch.where(decay < -2.0, -torch.inf, 0.1 * decay)
    actual = fast(32)(*(x.float() for x in (*rest, resets)))
    for a, b in zip(actual, naive(*rest, resets), strict=True):
        assert (a - b).norm() < 1e-4 * b.norm()


@pytest.mark.parametrize("decays", KINDS[1:])
def test_without_decay_the_gated_rule_is_the_delta_rule(decays: str) -> None:
    *tensors, decay = inputs(decays, 40)
    for a, b in zip(fast(16)(*tensors, torch.zeros_like(decay)), fast(16)(*tensors), strict=True):
        torch.testing.assert_close(a, b)


@DECAYS
def test_two_parts_with_the_state_carried_are_one_pass(decays: str) -> None:
    state, *tensors = inputs(decays, 50)
    whole, last = fast(16)(state, *tensors)
    first, middle = fast(16)(state, *(x[:, :21] for x in tensors))
    second, end = fast(16)(middle, *(x[:, 21:] for x in tensors))
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole)
    torch.testing.assert_close(end, last)


def test_equal_decays_of_all_channels_are_one_decay() -> None:
    *tensors, decay = inputs("head", 40)
    wide = decay.unsqueeze(-1).expand_as(tensors[1])
    for a, b in zip(fast(16)(*tensors, wide), fast(16)(*tensors, decay), strict=True):
        torch.testing.assert_close(a, b)


@DECAYS
def test_derivatives_by_finite_differences(decays: str) -> None:
    leaves = [x[:, :, :1].requires_grad_() for x in inputs(decays, 7, 3, 2)[1:]]
    state = inputs(decays, 7, 3, 2)[0][:, :1].requires_grad_()
    assert torch.autograd.gradcheck(fast(4), (state, *leaves))


def test_unit_lower_inverse_and_its_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    lower = torch.randn(3, 6, 6, generator=generator, dtype=torch.float64).tril(-1).requires_grad_()
    identity = torch.eye(6, dtype=torch.float64)
    torch.testing.assert_close(unit_lower_inverse(lower), torch.linalg.inv(identity + lower))
    assert torch.autograd.gradcheck(lambda a: unit_lower_inverse(a.tril(-1)), lower)


def test_bad_shapes_are_named() -> None:
    _, q, k, v, beta, decay = inputs("head", 5)
    with pytest.raises(ValueError, match="beta has shape"):
        delta_rule(q, k, v, beta[:, :4])
    with pytest.raises(ValueError, match="log_decay has shape"):
        gated_delta_rule(q, k, v, beta, decay[:, :4])
