"""Paired differences and the correction for many candidates, against scipy.stats and by simulation."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from asiarch.results.statistics import benjamini_hochberg, paired_difference

LOSSES = st.floats(0.5, 10.0)


@given(st.lists(st.tuples(LOSSES, LOSSES), min_size=2, max_size=12))
@settings(max_examples=200, deadline=None)
def test_paired_difference_is_scipys(pairs: list[tuple[float, float]]) -> None:
    a, b = (list(side) for side in zip(*pairs, strict=True))
    assume(np.std(np.subtract(a, b)) > 1e-9)
    expected = stats.ttest_rel(a, b)
    interval = expected.confidence_interval(0.95)
    got = paired_difference(a, b)
    assert got.n == len(a)
    assert got.p_value == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-12)
    assert (got.low, got.high) == pytest.approx((interval.low, interval.high), rel=1e-6, abs=1e-9)
    assert got.mean == pytest.approx(np.mean(a) - np.mean(b), abs=1e-9)


def test_paired_difference_by_hand() -> None:
    # differences -3, -2, -1: mean -2, error 1/sqrt(3), t = -2 sqrt(3); t(0.975, 2) = 4.302653
    got = paired_difference([1.0, 2.0, 3.0], [4.0, 4.0, 4.0])
    assert got.mean == -2.0
    assert got.low == pytest.approx(-2 - 4.302653 / math.sqrt(3), abs=1e-6)
    assert got.high == pytest.approx(-2 + 4.302653 / math.sqrt(3), abs=1e-6)
    # with two degrees of freedom p = 1 - |t| / sqrt(2 + t^2)
    assert got.p_value == pytest.approx(1 - math.sqrt(12 / 14))


def test_one_pair_has_no_interval() -> None:
    got = paired_difference([4.0], [4.5])
    assert (got.mean, got.low, got.high, got.p_value, got.n) == (-0.5, None, None, None, 1)


@pytest.mark.parametrize("offset", [0.0, 0.1, -0.3])
def test_equal_differences_are_never_significant(offset: float) -> None:
    base = [4.1, 4.2, 4.4]
    got = paired_difference([value + offset for value in base], base)
    assert (got.low, got.high, got.p_value) == (None, None, 1.0)
    assert got.mean == pytest.approx(offset)


@pytest.mark.parametrize(("a", "b"), [([], []), ([1.0], [1.0, 2.0]), ([1.0, math.nan], [1.0, 2.0])])
def test_paired_difference_refuses(a: list[float], b: list[float]) -> None:
    with pytest.raises(ValueError, match="pairs need"):
        paired_difference(a, b)


def test_interval_covers_the_truth_in_95_percent() -> None:
    generator = np.random.default_rng(7)
    runs = 2000
    covered = rejected = 0
    for _ in range(runs):
        luck = generator.normal(4.0, 0.05, 3)  # common to both: the seed
        got = paired_difference(luck + generator.normal(0, 0.01, 3), luck + generator.normal(0, 0.01, 3))
        assert got.low is not None
        assert got.high is not None
        assert got.p_value is not None
        covered += got.low <= 0 <= got.high
        rejected += got.p_value < 0.05
    low, high = stats.binom.interval(0.9999, runs, 0.95)
    assert low <= covered <= high
    assert rejected == runs - covered


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
@settings(max_examples=200, deadline=None)
def test_benjamini_hochberg_is_scipys(p_values: list[float]) -> None:
    expected = stats.false_discovery_control(p_values, method="bh")
    assert benjamini_hochberg(p_values) == pytest.approx(list(expected), rel=1e-12)


def test_benjamini_hochberg_by_hand() -> None:
    # sorted 0.01 0.02 0.03 0.5, times 4 / rank: 0.04 0.04 0.04 0.5
    assert benjamini_hochberg([0.03, 0.5, 0.01, 0.02]) == pytest.approx([0.04, 0.5, 0.04, 0.04])
    assert benjamini_hochberg([]) == []


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan])
def test_benjamini_hochberg_refuses(p: float) -> None:
    with pytest.raises(ValueError, match="p-values need"):
        benjamini_hochberg([0.5, p])


@pytest.mark.parametrize("better", [0, 10])
def test_false_discovery_rate_with_a_shared_reference(better: int) -> None:
    """Candidates share the reference's runs, as in a campaign; `better` of 40 are truly better."""
    generator = np.random.default_rng(11)
    runs, candidates, seeds = 300, 40, 5
    shares = []
    found = 0
    for _ in range(runs):
        reference = generator.normal(4.0, 0.01, seeds)
        losses = generator.normal(4.0, 0.01, (candidates, seeds))
        losses[:better] -= 0.05
        p_values = [paired_difference(row, reference).p_value for row in losses]
        adjusted = benjamini_hochberg([p for p in p_values if p is not None])
        rejected = [index for index, p in enumerate(adjusted) if p < 0.05]
        found += sum(index < better for index in rejected)
        shares.append(sum(index >= better for index in rejected) / max(1, len(rejected)))
    # four standard errors of a mean of values in 0..1 whose expectation is at most 0.05
    assert np.mean(shares) <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / runs)
    assert better == 0 or found > 0.5 * better * runs
