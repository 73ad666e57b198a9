"""The fitness formula against numbers worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asiarch.results.fitness import Change, benchmark_change, fitness, relative_loss_change, sigmoid
from asiarch.results.trial import TaskResult

CHANGES = st.floats(-2, 2)


def test_sigmoid_spans_its_range_within_ten_percent() -> None:
    assert sigmoid(0.0) == 0.5
    assert sigmoid(0.1) == pytest.approx(1 / (1 + math.exp(-4)))  # 0.982
    assert sigmoid(-0.1) == pytest.approx(1 / (1 + math.exp(4)))  # 0.018
    assert (sigmoid(1e300), sigmoid(-1e300)) == (1.0, 0.0)


def test_the_three_parts_carry_a_third_each() -> None:
    got = fitness(0.1, Change(-0.1), judge=10.0)
    assert got.loss_part + (got.benchmark_part or 0.0) == pytest.approx(1.0)
    assert got.judge_part == 1.0
    assert got.value == pytest.approx(2 / 3)


@pytest.mark.parametrize(("score", "part"), [(1, 0.0), (5.5, 0.5), (10, 1.0)])
def test_judge_maps_to_the_unit_interval(score: float, part: float) -> None:
    assert fitness(0.0, Change(0.0), score).judge_part == pytest.approx(part)
    assert fitness(0.0, None, score).value == pytest.approx((0.5 + part) / 2)


def test_absent_parts_leave_their_weight() -> None:
    assert fitness(0.1).value == pytest.approx(1 / (1 + math.exp(-4)))
    assert fitness(0.1, Change(-0.1)).value == pytest.approx(0.5)


@given(CHANGES, CHANGES, st.floats(1, 10), st.floats(0, 1))
def test_better_is_never_less_fit(loss: float, benchmark: float, judge: float, gain: float) -> None:
    value = fitness(loss, Change(benchmark), judge).value
    assert 0 <= value <= 1
    assert fitness(loss + gain, Change(benchmark), judge).value >= value
    assert fitness(loss, Change(benchmark + gain), judge).value >= value


@pytest.mark.parametrize(
    "arguments", [(math.nan,), (math.inf,), (0.0, math.nan), (0.0, 0.0, 0.0), (0, 0, 11)]
)
def test_fitness_refuses(arguments: tuple[float, ...]) -> None:
    loss, *rest = arguments
    with pytest.raises(ValueError, match="need"):
        fitness(loss, *map(Change, rest[:1]), *rest[1:])


def scores(**values: float) -> dict[str, TaskResult]:
    return {name: TaskResult(value, 100, 0.0) for name, value in values.items()}


def test_the_error_of_the_benchmark_part_is_what_noisy_scores_do_to_it() -> None:
    """Against as many repeated measurements of two tasks with known errors."""
    rng = np.random.default_rng(0)
    base, own = {"a": (0.5, 0.004), "b": (0.8, 0.006)}, {"a": (0.52, 0.003), "b": (0.79, 0.008)}

    def part(noise: float) -> float:
        tables = [
            {n: TaskResult(s + noise * rng.normal(0, e), 9, e) for n, (s, e) in table.items()}
            for table in (base, own)
        ]
        return fitness(0.0, benchmark_change(*tables)).benchmark_part or 0.0

    exact = [{n: TaskResult(s, 9, e) for n, (s, e) in table.items()} for table in (base, own)]
    stated = fitness(0.0, benchmark_change(*exact)).benchmark_error
    assert stated == pytest.approx(np.std([part(1.0) for _ in range(4000)]), rel=0.1)
    assert fitness(0.1).benchmark_error is None


def test_changes_are_relative_to_the_reference() -> None:
    assert relative_loss_change(4.0, 3.8) == pytest.approx(0.05)
    assert relative_loss_change(4.0, 4.4) == pytest.approx(-0.1)
    with pytest.raises(ValueError, match="above 0"):
        relative_loss_change(0.0, 1.0)
    # +25% and -10%
    assert benchmark_change(scores(a=0.4, b=0.5), scores(a=0.5, b=0.45, c=0.0)) == Change(
        pytest.approx(0.075)
    )
    assert benchmark_change({}, scores(a=0.5)) is None


def test_a_reference_score_of_zero_counts_absolutely() -> None:
    assert benchmark_change(scores(a=0.0), scores(a=0.2)) == Change(pytest.approx(0.2))


def test_a_missing_score_is_not_a_zero() -> None:
    with pytest.raises(ValueError, match="no score for b"):
        benchmark_change(scores(a=0.4, b=0.5), scores(a=0.5))
