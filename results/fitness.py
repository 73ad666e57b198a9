"""Fitness of a candidate against the reference: the mean of three parts, each from 0 to 1, as in ASI-Arch.

    fitness = 1/3 [ sigma(loss change) + sigma(benchmark change) + judge ]

("AlphaGo Moment for Model Architecture Discovery", 2025, the composite fitness.) Changes are relative,
positive where the candidate is better. sigma(x) = 1 / (1 + exp(-40 x)): no change gives 0.5, +10% gives
0.982 and -10% gives 0.018, so changes within +-10% spread over the range, and larger ones, which are more
often faults than finds, saturate. The steepness is ours: the paper states the range, not the constant. A
judge's score from 1 to 10 maps linearly to 0..1. A part that is absent leaves its weight to the others in
equal shares.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from asiarch.results.trial import TaskResult

STEEPNESS = 40.0
JUDGE_LOWEST, JUDGE_HIGHEST = 1.0, 10.0


@dataclass(frozen=True)
class Fitness:
    """`value` is the mean of the parts that are there; all lie in 0..1.

    `benchmark_error` is the standard error of `benchmark_part`, from those of the scores, to first order.
    """

    value: float
    loss_part: float
    benchmark_part: float | None
    benchmark_error: float | None
    judge_part: float | None


@dataclass(frozen=True)
class Change:
    """A relative change, 0.01 for 1% better, and its standard error."""

    value: float
    standard_error: float = 0.0


def fitness(loss_change: float, benchmark: Change | None = None, judge: float | None = None) -> Fitness:
    """Combine relative changes (0.01 = 1% better) and the judge's score (1 to 10).

    Raises ValueError where a change is not finite or the judge's score is out of range.
    """
    loss_part = sigmoid(loss_change)
    benchmark_part = None if benchmark is None else sigmoid(benchmark.value)
    benchmark_error = None
    if benchmark is not None and benchmark_part is not None:
        benchmark_error = STEEPNESS * benchmark_part * (1 - benchmark_part) * benchmark.standard_error
    judge_part = None if judge is None else _judge_part(judge)
    parts = [part for part in (loss_part, benchmark_part, judge_part) if part is not None]
    return Fitness(math.fsum(parts) / len(parts), loss_part, benchmark_part, benchmark_error, judge_part)


def sigmoid(change: float) -> float:
    """The module's sigma, by tanh, which does not overflow. Raises ValueError unless `change` is finite."""
    if not math.isfinite(change):
        raise ValueError(f"a relative change of {change} has no fitness: need a finite number")
    return 0.5 * (1.0 + math.tanh(0.5 * STEEPNESS * change))


def relative_loss_change(reference: float, candidate: float) -> float:
    """(reference - candidate) / reference, positive where the candidate's loss is lower.

    Raises ValueError unless the reference's loss is above 0.
    """
    if not reference > 0:
        raise ValueError(f"the reference's loss is {reference}, need a number above 0")
    return (reference - candidate) / reference


def benchmark_change(
    reference: Mapping[str, TaskResult], candidate: Mapping[str, TaskResult]
) -> Change | None:
    """Mean over the reference's tasks of the relative change of the score; None where the reference has no
    task.

    Where the reference's score is 0 or below (no recall at all, say) a relative change has no meaning, and
    the absolute change takes its place. The error takes the two scores as independent, which is too large where both
    were asked the same questions. Raises ValueError where the candidate lacks a task: a score that is missing is
    neither 0 nor to be left out of the mean.
    """
    missing = sorted(reference.keys() - candidate.keys())
    if missing:
        raise ValueError(f"no score for {', '.join(missing)}: the reference was measured on more tasks")
    if not reference:
        return None
    changes = [_score_change(result, candidate[task]) for task, result in reference.items()]
    error = math.hypot(*(change.standard_error for change in changes))  # tasks ask different questions
    return Change(math.fsum(change.value for change in changes) / len(changes), error / len(changes))


def _score_change(reference: TaskResult, candidate: TaskResult) -> Change:
    change = candidate.score - reference.score
    if reference.score <= 0:
        return Change(change, math.hypot(candidate.standard_error, reference.standard_error))
    ratio = candidate.score / reference.score
    error = math.hypot(candidate.standard_error, ratio * reference.standard_error)
    return Change(change / reference.score, error / reference.score)


def _judge_part(score: float) -> float:
    if not JUDGE_LOWEST <= score <= JUDGE_HIGHEST:
        raise ValueError(f"the judge's score is {score}, need {JUDGE_LOWEST:g} to {JUDGE_HIGHEST:g}")
    return (score - JUDGE_LOWEST) / (JUDGE_HIGHEST - JUDGE_LOWEST)
