"""The lineage's posterior against the same normal model, solved as one dense multivariate normal."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asiarch.agents.lineage import Forest, Lineage, Steps, fit_lineage, noise_variances

STEPS = Steps(root_mean=0.4, root_variance=2.0, drift=-0.3, variance=0.7)


def dense_prior(parents: list[int], steps: Steps) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the qualities before any score."""
    n = len(parents)
    mean, covariance = np.zeros(n), np.zeros((n, n))
    for i, parent in enumerate(parents):
        if parent < 0:
            mean[i], covariance[i, i] = steps.root_mean, steps.root_variance
        else:
            mean[i] = mean[parent] + steps.drift
            covariance[i, :i] = covariance[:i, i] = covariance[parent, :i]
            covariance[i, i] = covariance[parent, parent] + steps.variance
    return mean, covariance


def dense_posterior(
    parents: list[int], means: np.ndarray, variances: np.ndarray, steps: Steps
) -> tuple[np.ndarray, np.ndarray]:
    mean, covariance = dense_prior(parents, steps)
    seen = np.flatnonzero(~np.isnan(means))
    gain = covariance[:, seen] @ np.linalg.inv(covariance[np.ix_(seen, seen)] + np.diag(variances[seen]))
    return mean + gain @ (means[seen] - mean[seen]), covariance - gain @ covariance[seen]


@st.composite
def forests(draw: st.DrawFn) -> tuple[list[int], np.ndarray, np.ndarray]:
    n = draw(st.integers(1, 12))
    parents = [draw(st.integers(-1, i - 1)) for i in range(n)]
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    means = np.where(rng.random(n) < 0.25, np.nan, rng.normal(0, 2, n))
    return parents, means, rng.uniform(0.1, 2.0, n)


@settings(max_examples=60, deadline=None)
@given(forests())
def test_marginals_are_those_of_the_dense_normal(forest: tuple[list[int], np.ndarray, np.ndarray]) -> None:
    parents, means, variances = forest
    mean, covariance = dense_posterior(parents, means, variances, STEPS)
    found = Lineage(Forest(parents), means, variances, STEPS).marginals()
    np.testing.assert_allclose(found.mean, mean, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.variance, np.diag(covariance), rtol=1e-9, atol=1e-9)
    pairs = [0.0 if parent < 0 else covariance[i, parent] for i, parent in enumerate(parents)]
    np.testing.assert_allclose(found.with_parent, pairs, rtol=1e-9, atol=1e-9)


def test_one_candidate_is_shrunk_by_the_ratio_of_the_variances() -> None:
    found = Lineage(Forest([-1]), np.array([1.4]), np.array([1.0]), STEPS).marginals()
    assert found.mean[0] == pytest.approx((1.4 / 1.0 + 0.4 / 2.0) / (1 / 1.0 + 1 / 2.0))
    assert found.variance[0] == pytest.approx(1 / (1 / 1.0 + 1 / 2.0))


def test_samples_have_the_posterior_s_mean_and_covariance() -> None:
    parents = [-1, 0, 1, 1, 0, -1]
    means = np.array([0.5, 1.0, math.nan, -1.0, 2.0, 0.1])
    variances = np.array([0.5, 0.2, 1.0, 0.9, 0.4, 0.3])
    lineage = Lineage(Forest(parents), means, variances, STEPS)
    rng = np.random.default_rng(0)
    samples = np.array([lineage.sample(rng) for _ in range(20_000)])
    mean, covariance = dense_posterior(parents, means, variances, STEPS)
    # five standard errors
    np.testing.assert_allclose(samples.mean(0), mean, atol=5 * math.sqrt(2.0 / 20_000))
    np.testing.assert_allclose(np.cov(samples.T), covariance, atol=5 * 2.0 * math.sqrt(2 / 20_000))


def test_a_lucky_score_is_believed_less_when_its_children_are_poor() -> None:
    """The same score 2, with four children that score 0 and with four that score 2."""
    forest = Forest([-1, 0, 1, 1, 1, 1])
    poor, good = (
        Lineage(forest, np.array([0.0, 2.0, *[child] * 4]), np.full(6, 0.5), STEPS).marginals().mean[1]
        for child in (0.0, 2.0)
    )
    assert poor < 1.2 < 1.8 < good


def test_noise_is_what_the_seeds_scatter_beyond_a_shift_common_to_all() -> None:
    rng = np.random.default_rng(0)
    quality, shift = rng.normal(0, 3, (500, 1)), np.array([0.0, 10.0, -7.0])
    noise = rng.normal(0, 0.5, (500, 3))
    found = noise_variances(quality + shift + noise)
    assert found.mean() == pytest.approx(0.25, rel=0.1)
    assert found.min() > 0.25 * 4 / 6 * 0.9, "no candidate's noise falls far below what all have"
    np.testing.assert_allclose(found, noise_variances(noise))


def test_a_seed_that_strikes_alone_makes_its_mean_worth_less() -> None:
    scores = np.random.default_rng(1).normal(0, 1, (30, 3))
    struck = scores.copy()
    struck[7] += (-2.0, 4.0, -2.0)
    before, after = noise_variances(scores), noise_variances(struck)
    assert after[7] > 3 * before[7]
    assert after[7] > 2 * np.delete(after, 7).max()


def test_one_seed_gives_half_of_the_variance_to_noise() -> None:
    scores = np.array([[1.0], [2.0], [6.0]])
    np.testing.assert_allclose(noise_variances(scores), [7.0 / 2] * 3)


def test_the_fit_finds_the_steps_and_the_winner_s_curse() -> None:
    """Parents are drawn from the best scores, so that luck was selected."""
    rng = np.random.default_rng(2)
    parents, quality, scores = [-1], [0.0], [rng.normal(0, 1.0, 3)]
    means = [float(scores[0].mean())]
    for n in range(1, 1500):
        first = max(0, n - 100)
        parent = first + int(rng.choice(np.argsort(means[first:])[-10:]))
        parents.append(parent)
        quality.append(quality[parent] - 0.5 + 0.8 * rng.standard_normal())
        scores.append(quality[-1] + rng.normal(0, 1.0, 3))
        means.append(float(scores[-1].mean()))
    lineage = fit_lineage(parents, [tuple(score) for score in scores])
    assert lineage.steps.drift == pytest.approx(-0.5, abs=0.1)
    assert lineage.steps.variance == pytest.approx(0.64, rel=0.2)
    chosen = sorted({parent for parent in parents if parent > 0})
    truth, posterior = np.array(quality)[chosen], np.array(lineage.marginals().mean)[chosen]
    curse, bias = (np.array(means)[chosen] - truth).mean(), (posterior - truth).mean()
    assert curse > 0.2, "chosen parents are no better than they look"
    assert abs(bias) < curse / 4


def test_scores_that_are_all_equal_do_not_divide_by_zero() -> None:
    found = fit_lineage([-1, 0, 1], [(0.5, 0.5), (0.5, 0.5), ()]).marginals()
    np.testing.assert_allclose(found.mean, 0.5, atol=1e-5)
    assert np.isfinite(found.variance).all()


def test_one_result_is_no_lineage() -> None:
    with pytest.raises(ValueError, match="two candidates with results, not 1"):
        fit_lineage([-1, 0], [(0.5, 0.5), ()])
