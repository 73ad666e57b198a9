"""The ranking of candidates: what leads, by how much, and whether that is more than noise.

Two losses, kept apart. The *validation* loss (with the benchmarks and the judge) makes the fitness: it
orders the ranking, picks parents and decides what climbs. The *test* loss is what is reported: the
difference to the reference, its interval and its p-value. The best of many noisy validation losses is too
good by selection alone (the winner's curse), so a test on the numbers that chose the winner would find wins
among equals. Test losses chose nothing.

Everything is compared at the same rung (training budget) and paired by seed with the reference. A missing
number is never replaced: a candidate without every seed of a rung, or without a task of the reference, does
not rank there.
"""

import csv
import io
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from statistics import fmean, stdev

from asiarch.results.files import atomic_write_text
from asiarch.results.fitness import Change, Fitness, benchmark_change, fitness, relative_loss_change
from asiarch.results.statistics import Paired, benjamini_hochberg, paired_difference
from asiarch.results.trial import TaskResult, TrialKey, TrialSummary

ALPHA = 0.05
RECALL_TASK = "mqar"

_Trials = Mapping[TrialKey, TrialSummary]


@dataclass(frozen=True)
class CandidateInfo:
    """What the ranking says of a candidate beside its numbers. `path`: its program, relative to RUN."""

    candidate: int
    name: str
    origin: str
    parent: int | None
    path: str


@dataclass(frozen=True)
class RankingRow:
    """One candidate at its highest complete rung; means and standard deviations are over `seeds` seeds.

    Losses are in nats a token. `difference` is candidate minus reference on the test loss (negative is
    better), with its 95% interval `low`..`high`, its p-value, and the p-value adjusted for every candidate
    tried; None where the number of seeds, or being the reference, leaves none. `significant`: adjusted p <
    0.05 and a lower loss. `fitness` and its parts rest on validation loss, `tasks` and the judge. `recall`
    is the score of mqar.

    `test_loss_error`, `validation_loss_error`, `benchmark_part_error` and the errors in `tasks` are those of measuring
    each seed's model on so much text (`test_windows`, `validation_windows`) or so many examples (`n`): the mean of the
    seeds' errors, since all seeds see the same text and may see the same questions. They say nothing of how much seeds
    differ, which `test_loss_sd` and the paired interval do.
    """

    rank: int
    candidate: int
    name: str
    rung: int
    seeds: int
    test_loss: float
    test_loss_sd: float | None
    test_loss_error: float
    test_windows: int
    validation_loss: float
    validation_loss_error: float
    validation_windows: int
    difference: float | None
    low: float | None
    high: float | None
    p_value: float | None
    p_adjusted: float | None
    significant: bool
    fitness: float
    loss_part: float
    benchmark_part: float | None
    benchmark_part_error: float | None
    judge_part: float | None
    recall: float | None
    tokens_per_s: float
    parameters: int
    origin: str
    parent: int | None
    path: str
    tasks: dict[str, TaskResult]


@dataclass(frozen=True)
class Ranking:
    """`family_size`: how many candidates the p-values are corrected for. `judge`: who has a judge's score."""

    reference: int
    seeds: tuple[int, ...]
    alpha: float
    family_size: int
    judge: str  # "none", "some" or "all"
    rows: tuple[RankingRow, ...]

    def to_json(self) -> dict[str, object]:
        """What ranking.json holds."""
        return asdict(self)


def rank(
    trials: Iterable[TrialSummary],
    candidates: Iterable[CandidateInfo],
    reference: int,
    seeds: Iterable[int],
    judge: Mapping[int, float] | None = None,
) -> Ranking:
    """Rank every candidate that has all of `seeds`, at its highest rung at which the reference has them
    too.

    `reference` is the candidate compared against; it ranks as a row without a difference. `judge` maps
    candidates to scores from 1 to 10. The order: higher rung first, then fitness, then the lower id. The
    Benjamini-Hochberg family is every ranked candidate with a p-value but the reference. Without complete
    trials of the reference the ranking is empty.

    Raises ValueError where `seeds` is empty, two different summaries claim one trial, or a candidate with
    trials is not among `candidates`.
    """
    required = tuple(sorted(set(seeds)))
    if not required:
        raise ValueError("a ranking needs at least one seed")
    by_key = _unique(trials)
    known = {info.candidate: info for info in candidates}
    scores = judge or {}
    rungs: dict[int, set[int]] = defaultdict(set)
    for key in by_key:
        rungs[key.candidate].add(key.rung)
    rows = []
    for candidate in sorted(rungs):
        if candidate not in known:
            raise ValueError(f"candidate {candidate} has trials, but nothing says what it is")
        for rung in sorted(rungs[candidate], reverse=True):
            own, base = _at(by_key, candidate, rung, required), _at(by_key, reference, rung, required)
            if own and base and _same_tasks(own, base):
                rows.append(_row(known[candidate], reference, own, base, scores.get(candidate)))
                break
    ordered = sorted(rows, key=lambda row: (-row.rung, -row.fitness, row.candidate))
    corrected = _corrected([replace(row, rank=place) for place, row in enumerate(ordered, start=1)])
    family = sum(row.p_value is not None for row in corrected)
    return Ranking(reference, required, ALPHA, family, _judged(corrected), tuple(corrected))


def write_ranking(ranking: Ranking, run_dir: Path) -> None:
    """Write ranking.json and ranking.csv to `run_dir`, each atomically. The two hold the same rows.

    In the CSV an absent number is an empty field; a task has the columns `score_<task>`, `n_<task>` and
    `standard_error_<task>`.
    """
    text = json.dumps(ranking.to_json(), indent=1, allow_nan=False, ensure_ascii=False)
    atomic_write_text(run_dir / "ranking.json", text + "\n")
    atomic_write_text(run_dir / "ranking.csv", _csv(ranking))


def _unique(trials: Iterable[TrialSummary]) -> dict[TrialKey, TrialSummary]:
    by_key: dict[TrialKey, TrialSummary] = {}
    for trial in trials:
        if by_key.setdefault(trial.key, trial) != trial:
            raise ValueError(f"two different results for {trial.key}")
    return by_key


def _at(trials: _Trials, candidate: int, rung: int, seeds: Sequence[int]) -> list[TrialSummary]:
    """The candidate's trials at a rung, one a seed and in their order, or none unless all are there."""
    keys = [TrialKey(candidate, rung, seed) for seed in seeds]
    return [trials[key] for key in keys] if all(key in trials for key in keys) else []


def _same_tasks(own: Sequence[TrialSummary], base: Sequence[TrialSummary]) -> bool:
    # tasks that only the candidate has are left aside: the reference's are the ones that were asked for
    return all(theirs.tasks.keys() <= mine.tasks.keys() for mine, theirs in zip(own, base, strict=True))


def _row(
    info: CandidateInfo,
    reference: int,
    own: Sequence[TrialSummary],
    base: Sequence[TrialSummary],
    judge: float | None,
) -> RankingRow:
    is_reference = info.candidate == reference
    paired = paired_difference([trial.test_loss for trial in own], [trial.test_loss for trial in base])
    difference = Paired(0.0, None, None, None, len(own)) if is_reference else paired
    fit = _fitness(own, base, judge)
    tasks = {task: _mean_result([trial.tasks[task] for trial in own]) for task in _shared(base)}
    return RankingRow(
        rank=0,
        candidate=info.candidate,
        name=info.name,
        rung=own[0].key.rung,
        seeds=len(own),
        test_loss=fmean(trial.test_loss for trial in own),
        test_loss_sd=stdev(trial.test_loss for trial in own) if len(own) > 1 else None,
        test_loss_error=fmean(trial.test_error for trial in own),
        test_windows=min(trial.test_windows for trial in own),
        validation_loss=fmean(trial.validation_loss for trial in own),
        validation_loss_error=fmean(trial.validation_error for trial in own),
        validation_windows=min(trial.validation_windows for trial in own),
        difference=None if is_reference else difference.mean,
        low=difference.low,
        high=difference.high,
        p_value=difference.p_value,
        p_adjusted=None,
        significant=False,
        fitness=fit.value,
        loss_part=fit.loss_part,
        benchmark_part=fit.benchmark_part,
        benchmark_part_error=fit.benchmark_error,
        judge_part=fit.judge_part,
        recall=tasks[RECALL_TASK].score if RECALL_TASK in tasks else None,
        tokens_per_s=fmean(trial.tokens_per_s for trial in own),
        parameters=own[0].parameters,
        origin=info.origin,
        parent=info.parent,
        path=info.path,
        tasks=tasks,
    )


def _mean_result(results: Sequence[TaskResult]) -> TaskResult:
    return TaskResult(
        score=fmean(result.score for result in results),
        n=min(result.n for result in results),
        standard_error=fmean(result.standard_error for result in results),
    )


def _shared(base: Sequence[TrialSummary]) -> list[str]:
    return sorted(set.intersection(*(set(trial.tasks) for trial in base)))


def _fitness(own: Sequence[TrialSummary], base: Sequence[TrialSummary], judge: float | None) -> Fitness:
    """The changes are paired by seed and then averaged; the sigmoid is applied to the averages."""
    pairs = list(zip(own, base, strict=True))
    loss = fmean(relative_loss_change(ref.validation_loss, mine.validation_loss) for mine, ref in pairs)
    changes = [benchmark_change(ref.tasks, mine.tasks) for mine, ref in pairs]
    known = [change for change in changes if change is not None]
    if not known:
        return fitness(loss, None, judge)
    # seeds may see the same questions: their errors do not average out
    benchmark = Change(fmean(c.value for c in known), fmean(c.standard_error for c in known))
    return fitness(loss, benchmark, judge)


def _corrected(rows: Sequence[RankingRow]) -> list[RankingRow]:
    tested = {row.candidate: row.p_value for row in rows if row.p_value is not None}
    adjusted = dict(zip(tested, benjamini_hochberg(list(tested.values())), strict=True))
    return [
        replace(
            row,
            p_adjusted=adjusted.get(row.candidate),
            significant=adjusted.get(row.candidate, math.inf) < ALPHA and (row.difference or 0.0) < 0,
        )
        for row in rows
    ]


def _judged(rows: Sequence[RankingRow]) -> str:
    judged = sum(row.judge_part is not None for row in rows)
    if judged == 0:
        return "none"
    return "all" if judged == len(rows) else "some"


def _csv(ranking: Ranking) -> str:
    tasks = sorted({task for row in ranking.rows for task in row.tasks})
    columns = [column.name for column in fields(RankingRow) if column.name != "tasks"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    parts = [column.name for column in fields(TaskResult)]
    writer.writerow([*columns, *(f"{part}_{task}" for task in tasks for part in parts)])
    for row in ranking.rows:
        scores = [getattr(row.tasks.get(task), part, None) for task in tasks for part in parts]
        writer.writerow([*(getattr(row, column) for column in columns), *scores])
    return text.getvalue()


def candidate_fitness(
    own: Iterable[TrialSummary], reference: Iterable[TrialSummary], rung: int, judge: float | None = None
) -> Fitness:
    """The fitness of a candidate's trials at a rung, over the seeds that the reference has there too.

    `judge` is its score from 1 to 10.

    Raises ValueError where they share no seed at that rung.
    """
    pairs = _shared_seeds(own, reference, rung)
    return _fitness([mine for mine, _ in pairs], [theirs for _, theirs in pairs], judge)


def fitness_by_seed(
    own: Iterable[TrialSummary], reference: Iterable[TrialSummary], rung: int, judge: float | None = None
) -> tuple[float, ...]:
    """The fitness that each seed's trial would have alone, for the same trials as in `candidate_fitness`.

    Their mean is not the candidate's fitness, whose sigmoid is applied to the mean change: near it, while changes
    are small.
    """
    return tuple(
        _fitness([mine], [theirs], judge).value for mine, theirs in _shared_seeds(own, reference, rung)
    )


def _shared_seeds(
    own: Iterable[TrialSummary], reference: Iterable[TrialSummary], rung: int
) -> list[tuple[TrialSummary, TrialSummary]]:
    mine = {trial.key.seed: trial for trial in own if trial.key.rung == rung}
    theirs = {trial.key.seed: trial for trial in reference if trial.key.rung == rung}
    shared = sorted(mine.keys() & theirs.keys())
    if not shared:
        raise ValueError(f"no shared seed with the reference at rung {rung}")
    return [(mine[seed], theirs[seed]) for seed in shared]
