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

    mean: tuple[float, ...]
    variance: tuple[float, ...]
    with_parent: tuple[float, ...]


class Lineage:
    """The posterior of a forest's qualities.

    Args:
        parents: for each candidate the place of its parent, which comes before it; -1 for a root.
        means: for each candidate the mean of its scores, NaN where there is none.
        variances: of these means' noise.
    """

    def __init__(
        self, parents: Sequence[int], means: Sequence[float], variances: Sequence[float], steps: Steps
    ) -> None:
        self._parents = parents
        self.steps = steps
        # the likelihood of a candidate's quality given its own and its descendants' scores, in information form
        self._precision = [0.0 if math.isnan(m) else 1 / v for m, v in zip(means, variances, strict=True)]
        self._weighted = [0.0 if math.isnan(m) else m / v for m, v in zip(means, variances, strict=True)]
        for child in range(len(parents) - 1, -1, -1):
            parent, precision = parents[child], self._precision[child]
            if parent >= 0:
                passed = 1 / (1 + steps.variance * precision)
                self._precision[parent] += passed * precision
                self._weighted[parent] += passed * (self._weighted[child] - steps.drift * precision)

    def marginals(self) -> Marginals:
        """The posterior of each candidate given all scores."""
        n = len(self._parents)
        mean, variance, with_parent = [0.0] * n, [0.0] * n, [0.0] * n
        for i, parent in enumerate(self._parents):
            before = 0.0 if parent < 0 else variance[parent]
            share, spread, centre = self._given_parent(i, mean)
            mean[i] = centre
            variance[i] = spread + share**2 * before
            with_parent[i] = share * before
        return Marginals(tuple(mean), tuple(variance), tuple(with_parent))

    def sample(self, rng: np.random.Generator) -> list[float]:
        """One draw of all qualities together."""
        qualities = rng.standard_normal(len(self._parents)).tolist()
        for i in range(len(qualities)):
            _, spread, centre = self._given_parent(i, qualities)
            qualities[i] = centre + math.sqrt(spread) * qualities[i]
        return qualities

    def _given_parent(self, i: int, qualities: Sequence[float]) -> tuple[float, float, float]:
        """A quality given its parent's: the weight of the parent's, the variance, the mean."""
        steps, parent = self.steps, self._parents[i]
        root = parent < 0
        variance = steps.root_variance if root else steps.variance
        prior = steps.root_mean if root else qualities[parent] + steps.drift
        share = 1 / (1 + variance * self._precision[i])
        return share, share * variance, share * (prior + variance * self._weighted[i])


def fit_lineage(parents: Sequence[int], scores: Sequence[Sequence[float]]) -> Lineage:
    """The posterior with its variances estimated from the scores.

    Args:
        parents: as for `Lineage`.
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
    children = [i for i in places if parents[i] >= 0]
    for _ in range(_ROUNDS):
        now = Lineage(parents, means.tolist(), variances.tolist(), steps).marginals()
        steps = _estimated(steps, now, [(i, parents[i]) for i in children], noise)
    return Lineage(parents, means.tolist(), variances.tolist(), steps)


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


def _estimated(steps: Steps, now: Marginals, edges: Sequence[tuple[int, int]], guess: float) -> Steps:
    """The drift and the variance of steps that fit the posterior best, with `guess` as a weak prior."""
    weight = len(edges) + _STEP_PRIOR
    moves = [now.mean[i] - now.mean[parent] for i, parent in edges]
    drift = math.fsum(moves) / weight
    squares = [
        (move - drift) ** 2 + now.variance[i] + now.variance[parent] - 2 * now.with_parent[i]
        for move, (i, parent) in zip(moves, edges, strict=True)
    ]
    variance = (math.fsum(squares) + _STEP_PRIOR * guess) / weight
    return Steps(steps.root_mean, steps.root_variance, drift, variance)
