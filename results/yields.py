"""What each proposer's candidates came to, and those of each origin of ideas: a comparison at equal compute.

"Beats" means what it means in the ranking: a lower test loss, paired over seeds, with a p-value that survives the
Benjamini-Hochberg correction. Against the reference the correction is the ranking's; against parents it is over all
candidates whose parent has results at a rung of theirs. `above_parent` is the search's own view, without a test: the
validation loss, meaned over the seeds, is lower than the parent's.

Origins are ASI-Arch's three: a plan drew on other candidates (experience), on the literature (cognition), or on neither
(original). As there, a candidate of two origins counts for both, and shares are of all that were named.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Final

from asiarch.results.ranking import ALPHA, Ranking
from asiarch.results.statistics import benjamini_hochberg, paired_difference
from asiarch.results.trial import TrialKey, TrialSummary

ORIGINS: Final = ("experience", "cognition", "original")
COUNTS: Final = ("proposed", "accepted", "trained", "above_parent", "beat_parent", "beat_reference")


@dataclass(frozen=True)
class Tried:
    """A candidate as far as its yield goes. The hours are those of its finished trials; `origins` of its idea."""

    candidate: int
    proposer: str
    parent: int | None
    accepted: bool  # by the checker
    gpu_hours: float
    trial_hours: float
    origins: tuple[str, ...] = ()


@dataclass(frozen=True)
class Yield:
    """Counts of a proposer's candidates, or an origin's. `trained`: with a result at every seed of some rung."""

    name: str
    proposed: int
    accepted: int
    trained: int
    above_parent: int
    beat_parent: int
    beat_reference: int
    gpu_hours: float
    trial_hours: float

    @property
    def for_each_accepted(self) -> float | None:
        """Candidates that beat the reference, for each accepted one; None where none was."""
        return self.beat_reference / self.accepted if self.accepted else None

    @property
    def for_each_gpu_hour(self) -> float | None:
        """Candidates that beat the reference, for each GPU-hour; None where there was no GPU."""
        return self.beat_reference / self.gpu_hours if self.gpu_hours else None

    @property
    def for_each_trial_hour(self) -> float | None:
        """Candidates that beat the reference, for each hour of a trial; None where none finished."""
        return self.beat_reference / self.trial_hours if self.trial_hours else None

    def to_json(self) -> dict[str, str | int | float | None]:
        """The counts and the yields."""
        rates = ("for_each_accepted", "for_each_gpu_hour", "for_each_trial_hour")
        return {**vars(self), **{name: getattr(self, name) for name in rates}}


@dataclass(frozen=True)
class Yields:
    """By proposer, in the order of their names; and by origin, in ASI-Arch's order, where any idea has one."""

    proposers: tuple[Yield, ...]
    origins: tuple[Yield, ...]

    def to_json(self) -> dict[str, list[dict[str, Any]]]:
        """A table for each; origins with their `shares` of each count."""
        origins = [one.to_json() | {"shares": shares} for one, shares in self.shares()]
        return {"proposers": [one.to_json() for one in self.proposers], "origins": origins}

    @classmethod
    def from_json(cls, tables: dict[str, list[dict[str, Any]]]) -> "Yields":
        """The inverse of `to_json`. Raises KeyError, TypeError for what it did not write."""
        names = Yield.__dataclass_fields__
        proposers, origins = (
            tuple(Yield(**{name: row[name] for name in names}) for row in tables[table])
            for table in ("proposers", "origins")
        )
        return cls(proposers, origins)

    def shares(self) -> list[tuple[Yield, dict[str, float | None]]]:
        """Each origin with its share of every count, over all origins; None where the count is 0 for all."""
        sums = {count: sum(getattr(one, count) for one in self.origins) for count in COUNTS}
        return [
            (one, {count: getattr(one, count) / total if total else None for count, total in sums.items()})
            for one in self.origins
        ]


def yields(tried: Iterable[Tried], trials: Iterable[TrialSummary], ranking: Ranking) -> Yields:
    """The yield of every proposer, and of every origin. `tried` are the candidates without the baselines."""
    candidates = list(tried)
    above, beat = _beside_parents(candidates, trials, ranking.seeds)
    ranked = {row.candidate for row in ranking.rows}
    winners = {row.candidate for row in ranking.rows if row.significant}
    by_proposer, by_origin = defaultdict[str, list[Tried]](list), defaultdict[str, list[Tried]](list)
    for one in candidates:
        by_proposer[one.proposer].append(one)
        for origin in one.origins:
            by_origin[origin].append(one)

    def counted(name: str, group: Sequence[Tried]) -> Yield:
        return Yield(
            name=name,
            proposed=len(group),
            accepted=sum(one.accepted for one in group),
            trained=sum(one.candidate in ranked for one in group),
            above_parent=sum(one.candidate in above for one in group),
            beat_parent=sum(one.candidate in beat for one in group),
            beat_reference=sum(one.candidate in winners for one in group),
            gpu_hours=sum(one.gpu_hours for one in group),
            trial_hours=sum(one.trial_hours for one in group),
        )

    return Yields(
        tuple(counted(name, group) for name, group in sorted(by_proposer.items())),
        tuple(counted(name, by_origin[name]) for name in ORIGINS if by_origin),
    )


def _beside_parents(
    candidates: Sequence[Tried], trials: Iterable[TrialSummary], seeds: Sequence[int]
) -> tuple[set[int], set[int]]:
    """Who has a lower validation loss than its parent, and who beats it."""
    by_key = {trial.key: trial for trial in trials}
    rungs = sorted({key.rung for key in by_key}, reverse=True)
    above, tested, differences = set(), [], {}
    for one in candidates:
        if one.parent is None or (pairs := _pairs(by_key, one.candidate, one.parent, rungs, seeds)) is None:
            continue
        own, parents = pairs
        if fmean(t.validation_loss for t in own) < fmean(t.validation_loss for t in parents):
            above.add(one.candidate)
        paired = paired_difference([t.test_loss for t in own], [t.test_loss for t in parents])
        if paired.p_value is not None:
            tested.append(paired.p_value)
            differences[one.candidate] = paired.mean
    adjusted = dict(zip(differences, benjamini_hochberg(tested), strict=True))
    return above, {number for number, p in adjusted.items() if p < ALPHA and differences[number] < 0}


def _pairs(
    trials: Mapping[TrialKey, TrialSummary],
    candidate: int,
    parent: int,
    rungs: Sequence[int],
    seeds: Sequence[int],
) -> tuple[list[TrialSummary], list[TrialSummary]] | None:
    """Both candidates' trials, seed by seed, at the first of the rungs at which both have every seed."""
    for rung in rungs:
        keys = [(TrialKey(candidate, rung, seed), TrialKey(parent, rung, seed)) for seed in seeds]
        if all(mine in trials and theirs in trials for mine, theirs in keys):
            return [trials[mine] for mine, _ in keys], [trials[theirs] for _, theirs in keys]
    return None
