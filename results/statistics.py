"""Whether a difference over seeds is more than noise, and what remains of that after many candidates were
tried.

scipy.special alone, and only where it is called: it takes long to import, and `status` should not wait for it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Paired:
    """A mean difference over `n` pairs, its 95% interval and its two-sided p-value; None: there is none."""

    mean: float
    low: float | None
    high: float | None
    p_value: float | None
    n: int


def paired_difference(a: Sequence[float], b: Sequence[float]) -> Paired:
    """Mean of a - b over pairs (a seed each), with Student's t on the differences, n - 1 degrees of
    freedom.

    One pair has no interval and no p-value. Neither has an interval where all differences are equal (up to
    rounding): runs that differ in their seed always scatter, so no spread at all means that the same run
    was counted twice, and the variance that t divides by is not known. The p-value is then 1, never 0: such
    a candidate counts among those tried and is never significant.

    Raises ValueError where the lengths differ, are 0, or a value is not finite.
    """
    import numpy as np
    from scipy.special import stdtr, stdtrit

    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if first.ndim != 1 or first.shape != second.shape or first.size == 0:
        raise ValueError(f"pairs need two equally long, non-empty lists, not {a} and {b}")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("pairs need finite numbers")
    differences = first - second
    n, mean = differences.size, float(differences.mean())
    if n < 2:
        return Paired(mean, None, None, None, n)
    deviation = float(differences.std(ddof=1))
    rounding = 4 * np.finfo(np.float64).eps * max(np.abs(first).max(), np.abs(second).max())
    if deviation <= rounding:
        return Paired(mean, None, None, 1.0, n)
    error = deviation / math.sqrt(n)
    half = float(stdtrit(n - 1, 0.5 + CONFIDENCE / 2)) * error
    return Paired(mean, mean - half, mean + half, float(2 * stdtr(n - 1, -abs(mean) / error)), n)


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the order given: rejecting those below q keeps the false discovery rate at q.

    The i-th smallest of m becomes min over j >= i of p_j m / j (Benjamini and Hochberg, 1995, J. R. Stat.
    Soc. B 57, 289). All candidates share the reference's runs, which makes their p-values positively
    dependent; the procedure allows for that (Benjamini and Yekutieli, 2001), proven for one-sided tests and
    simulated in the tests for these.

    Raises ValueError where a p-value is not in 0..1.
    """
    import numpy as np

    p = np.asarray(p_values, np.float64)
    if p.ndim != 1 or not np.all((p >= 0) & (p <= 1)):
        raise ValueError("p-values need to be a list of numbers from 0 to 1")
    order = np.argsort(p, kind="stable")
    scaled = p[order] * p.size / np.arange(1, p.size + 1)
    # the running minimum from the largest down keeps the order of the p-values
    steps = np.minimum.accumulate(scaled[::-1])[::-1]
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(steps, 1.0)
    return [float(value) for value in adjusted]
