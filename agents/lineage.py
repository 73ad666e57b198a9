"""What results say of the candidates' quality once the luck of their seeds is taken off.

A program is an edit of its parent's, so its quality is the parent's and a step, and a score is quality and noise:

    quality[i] = quality[parent of i] + step,   step ~ N(drift, step_variance)
    score[i, seed] = quality[i] + shift[seed] + noise,   noise ~ N(0, noise_variance[i])

`shift` is what a seed does to all candidates alike: they share its data order, and the reference that they are
compared with. So a score is judged beside its parent's and its children's, and one that no relative bears out is
taken for luck. With the variances known the posterior is exact: the lineage is a forest, filtered from the leaves to
the roots and smoothed back, as Rauch, Tung and Striebel (1965) do along a chain.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_NOISE_PRIOR = 4.0  # degrees of freedom of the pooled noise, beside a candidate's own
_STEP_PRIOR = 2.0  # how many steps the first guess of their variance counts for
_ROUNDS = 6  # of expectation maximisation
_LEAST_VARIANCE = 1e-12  # for scores that are all equal


@dataclass(frozen=True)
class Steps:
    """The prior of qualities: of roots, and of the step from a parent to its child."""

    root_mean: float
    root_variance: float
    drift: float
    variance: float


@dataclass(frozen=True)
class Marginals:
    """Each candidate's posterior mean and variance, and its covariance with its parent (0 for a root)."""

    mean: np.ndarray
    variance: np.ndarray
    with_parent: np.ndarray


class Forest:
    """Who descends from whom, by generation: what a generation needs of the one before is computed at once.

    Args:
        parents: for each candidate the place of its parent, which comes before it; -1 for a root.
    """

    def __init__(self, parents: Sequence[int]) -> None:
        self.parents = np.array(parents, np.int64)
        generation = [0] * len(parents)
        for child, parent in enumerate(parents):
            if parent >= 0:
                generation[child] = generation[parent] + 1
        order = np.argsort(generation, kind="stable")
        _, *later = np.split(order, np.cumsum(np.bincount(generation))[:-1])
        self.generations = [
            (children, self.parents[children]) for children in later
        ]  # after the roots, in order


class Lineage:
    """The posterior of a forest's qualities.

    Args:
        means: for each candidate the mean of its scores, NaN where there is none.
        variances: of these means' noise.
    """

    def __init__(self, forest: Forest, means: np.ndarray, variances: np.ndarray, steps: Steps) -> None:
        self.steps, self._forest = steps, forest
        # the likelihood of a candidate's quality given its own and its descendants' scores, in information form
        precision = np.where(np.isnan(means), 0.0, 1 / variances)
        weighted = np.where(np.isnan(means), 0.0, means / variances)
        for children, parents in reversed(forest.generations):
            own = precision[children]
            passed = 1 / (1 + steps.variance * own)
            np.add.at(precision, parents, passed * own)
            np.add.at(weighted, parents, passed * (weighted[children] - steps.drift * own))
        # a quality given its parent's: the weight of the parent's, the variance, the mean without the parent's part
        is_root = forest.parents < 0
        prior = np.where(is_root, steps.root_variance, steps.variance)
        self._share = 1 / (1 + prior * precision)
        self._spread = self._share * prior
        self._centre = self._share * (np.where(is_root, steps.root_mean, steps.drift) + prior * weighted)

    def marginals(self) -> Marginals:
        """The posterior of each candidate given all scores."""
        mean, variance, with_parent = self._centre.copy(), self._spread.copy(), np.zeros_like(self._spread)
        for children, parents in self._forest.generations:
            share = self._share[children]
            mean[children] += share * mean[parents]
            with_parent[children] = share * variance[parents]
            variance[children] += share * with_parent[children]
        return Marginals(mean, variance, with_parent)

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """One draw of all qualities together."""
        qualities: np.ndarray = self._centre + np.sqrt(self._spread) * rng.standard_normal(len(self._spread))
        for children, parents in self._forest.generations:
            qualities[children] += self._share[children] * qualities[parents]
        return qualities


def fit_lineage(parents: Sequence[int], scores: Sequence[Sequence[float]]) -> Lineage:
    """The posterior with its variances estimated from the scores.

    Args:
        parents: as for `Forest`.
        scores: for each candidate one score a seed, equally many for all; none where there is no result. Raises
            ValueError unless two candidates or more have some.
    """
    places = [i for i, own in enumerate(scores) if own]
    if len(places) < 2:
        raise ValueError(f"a lineage needs two candidates with results, not {len(places)}")
    known = np.array([scores[i] for i in places], np.float64)
    means, variances = np.full(len(parents), np.nan), np.ones(len(parents))
    means[places] = known.mean(1)
    variances[places] = noise_variances(known) / known.shape[1]
    noise = float(variances[places].mean())
    steps = Steps(float(np.nanmean(means)), float(np.nanvar(means)) + noise, 0.0, noise)
    forest = Forest(parents)
    children = np.array([i for i in places if parents[i] >= 0], np.int64)
    for _ in range(_ROUNDS):
        now = Lineage(forest, means, variances, steps).marginals()
        steps = _estimated(steps, now, children, forest.parents[children], noise)
    return Lineage(forest, means, variances, steps)


def noise_variances(scores: np.ndarray) -> np.ndarray:
    """The variance of a single score's noise, for each candidate; `scores` is (candidates, seeds), two or more.

    From the residuals of a two-way layout, pooled over candidates and then moved some way to each candidate's own: a
    mean that one seed lifts is worth less (moderated variances: Smyth, 2004, Stat. Appl. Genet. Mol. Biol. 3, 3). One
    seed has no residuals; half of the scores' variance is taken for noise then.
    """
    n, seeds = scores.shape
    if seeds < 2:
        return np.full(n, max(scores.var(ddof=1) / 2, _LEAST_VARIANCE))
    residuals = scores - scores.mean(1, keepdims=True) - scores.mean(0) + scores.mean()
    own = (residuals**2).sum(1) * n / (n - 1)
    pooled = max(own.mean() / (seeds - 1), _LEAST_VARIANCE)
    return (_NOISE_PRIOR * pooled + own) / (_NOISE_PRIOR + seeds - 1)


def _estimated(
    steps: Steps, now: Marginals, children: np.ndarray, parents: np.ndarray, guess: float
) -> Steps:
    """The drift and the variance of steps that fit the posterior best, with `guess` as a weak prior."""
    weight = len(children) + _STEP_PRIOR
    moves = now.mean[children] - now.mean[parents]
    drift = math.fsum(moves) / weight
    uncertain = now.variance[children] + now.variance[parents] - 2 * now.with_parent[children]
    variance = (math.fsum((moves - drift) ** 2 + uncertain) + _STEP_PRIOR * guess) / weight
    return Steps(steps.root_mean, steps.root_variance, drift, variance)
