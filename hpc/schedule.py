"""What the head does next, as a pure function of the campaign's state.

Nothing here looks at a clock, a file or a process. In deterministic mode the decisions about candidate n rest
on candidates of fixed numbers alone, whatever the order in which trials finished:

- n is proposed once every candidate up to n - in_flight is settled, from their results;
- n climbs from a rung once every earlier candidate is done with that rung, ranked among those up to n.

So timing and restarts change how long a campaign takes, not what it finds. In free-running mode the same two
decisions use whatever has finished (Li et al., "A System for Massively Parallel Hyperparameter Tuning",
arXiv 1810.05934: asynchronous successive halving).
"""

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from asiarch.hpc.config import CampaignConfig
from asiarch.hpc.state import CampaignState, Candidate
from asiarch.results.ranking import candidate_fitness


@dataclass(frozen=True)
class Propose:
    """Make candidate `candidate`; it may see the results of the candidates in `known`."""

    candidate: int
    known: tuple[int, ...]


@dataclass(frozen=True)
class BeginDraft:
    """Begin to make a candidate whose turn to be proposed comes later."""

    candidate: int
    known: tuple[int, ...]


@dataclass(frozen=True)
class CheckProgram:
    candidate: int


@dataclass(frozen=True)
class Repair:
    """Have a program mended that failed in training."""

    candidate: int


@dataclass(frozen=True)
class CalibrateJudge:
    pass


@dataclass(frozen=True)
class Reflect:
    """Have a candidate's results analysed, and the candidate judged."""

    candidate: int


@dataclass(frozen=True)
class Submit:
    candidate: int
    rung: int
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Promote:
    candidate: int
    rung: int


@dataclass(frozen=True)
class StopEarly:
    candidate: int
    rung: int
    reason: str


@dataclass(frozen=True)
class EndProposals:
    reason: str


@dataclass(frozen=True)
class Finish:
    pass


Action = (
    Propose
    | BeginDraft
    | CheckProgram
    | Repair
    | CalibrateJudge
    | Reflect
    | Submit
    | Promote
    | StopEarly
    | EndProposals
    | Finish
)


class Scheduler:
    """Decides by the campaign's configuration."""

    def __init__(self, config: CampaignConfig) -> None:
        self._config = config
        self._deterministic = config.search.mode == "deterministic"
        self._room = config.slurm.trials_in_flight if config.executor == "slurm" else sys.maxsize
        self.total = len(config.baselines) + config.budget.candidates
        self._fitness: dict[tuple[int, int], float] = {}  # of complete rungs, which change no more
        self._judged = config.llm.is_there and config.llm.judge
        self._reflecting = config.llm.is_there and (config.llm.analyst or config.llm.judge)
        self._ahead = config.llm.parallel if "llm" in config.proposers else 1

    def actions(self, state: CampaignState) -> Iterator[Action]:
        """What can be done now, the most urgent first; each is found as it is asked for.

        The head does the first one that does not have to wait for the LLM, and asks anew.
        """
        for candidate in state.unsettled:
            action = self._next_for(candidate, state)
            if action is not None:
                yield action
        if self._judged and state.judge is None and len(state.candidates) >= len(self._config.baselines):
            yield CalibrateJudge()
        elif self._reflecting:
            yield from (Reflect(candidate.id) for candidate in state.unreflected)
        proposal = self._propose(state)
        if proposal is not None:
            yield proposal
        if isinstance(proposal, Propose) and proposal.candidate >= len(self._config.baselines):
            yield from self._drafts(proposal.candidate + 1, state)
        if (finish := self._finish(state)) is not None:
            yield finish

    def _next_for(self, candidate: Candidate, state: CampaignState) -> Action | None:
        if candidate.status == "proposed":
            return CheckProgram(candidate.id)
        if candidate.status == "broken":
            return Repair(candidate.id)
        if candidate.status != "training":
            return None
        trials = candidate.trials_at(candidate.rung)
        due = tuple(s for s in state.seeds if s not in trials or trials[s].status == "interrupted")
        if due and self._room - len(state.under_way) < len(due):
            return None
        if due:
            return Submit(candidate.id, candidate.rung, due)
        if done_with(candidate, candidate.rung, state):
            return self._climb_or_stop(candidate, state)
        return None

    def _climb_or_stop(self, candidate: Candidate, state: CampaignState) -> Action | None:
        rung = candidate.rung
        if candidate.baseline:
            return Promote(candidate.id, rung + 1)
        rivals = self._rivals(candidate, rung, state)
        if rivals is None:
            return None
        scores = {
            c.id: self._fitness_of(c, rung, state)
            for c in rivals
            if not c.baseline and completed(c, rung, state)
        }
        place = 1 + sum(score > scores[candidate.id] for score in scores.values())
        climbing = math.ceil(self._config.promote * len(scores))
        if place <= climbing:
            return Promote(candidate.id, rung + 1)
        reason = f"place {place} of {len(scores)} at rung {rung}; the first {climbing} climb"
        return StopEarly(candidate.id, rung, reason)

    def _fitness_of(self, candidate: Candidate, rung: int, state: CampaignState) -> float:
        if (candidate.id, rung) not in self._fitness:
            reference = state.candidates[0].summaries()
            found = candidate_fitness(candidate.summaries(), reference, rung)
            self._fitness[candidate.id, rung] = found.value
        return self._fitness[candidate.id, rung]

    def _rivals(self, candidate: Candidate, rung: int, state: CampaignState) -> list[Candidate] | None:
        """Whom a candidate is ranked with; None while that is not known yet."""
        if self._deterministic:
            if not all(done_with(c, rung, state) for c in state.unsettled if c.id <= candidate.id):
                return None
            return [c for c in state.candidates.values() if c.id <= candidate.id]
        return list(state.candidates.values()) if completed(state.candidates[0], rung, state) else None

    def _propose(self, state: CampaignState) -> Action | None:
        number = len(state.candidates)
        baselines = len(self._config.baselines)
        if number < baselines:
            return Propose(number, ())
        if number >= self.total or state.proposing_ended:
            return None
        allowed = self._config.budget.gpu_hours
        if allowed is not None and state.gpu_hours >= allowed:
            return EndProposals(f"{state.gpu_hours:.1f} of {allowed:g} GPU-hours are used")
        if self._judged and state.judge is None:
            return None  # its scores of the baselines are a part of their fitness
        known = self._known(number, state)
        if known is None:
            return None
        # a baseline's program is known from the start, its results only as those of any other candidate
        return Propose(number, known)

    def _drafts(self, start: int, state: CampaignState) -> Iterator[BeginDraft]:
        """The proposals after the next one that can be begun, so that the LLM works at several at once."""
        for number in range(start, min(start + self._ahead - 1, self.total)):
            known = self._known(number, state)
            if known is None or (known and known[-1] >= len(state.candidates)):
                return
            yield BeginDraft(number, known)

    def _known(self, number: int, state: CampaignState) -> tuple[int, ...] | None:
        """Whose results a proposal may use; None while its turn has not come."""
        in_flight = self._config.search.in_flight
        unreflected = {c.id for c in state.unreflected} if self._reflecting else set()
        if self._deterministic:
            last = number - in_flight
            waits = any(c.id <= last for c in state.unsettled) or any(n <= last for n in unreflected)
            return None if waits else tuple(range(last + 1))
        drafted = number - len(state.candidates)
        if len(state.unsettled) + drafted >= in_flight:
            return None
        return tuple(c.id for c in state.candidates.values() if c.settled and c.id not in unreflected)

    def _finish(self, state: CampaignState) -> Action | None:
        ended = len(state.candidates) >= self.total or state.proposing_ended
        waits = state.unsettled or (self._reflecting and state.unreflected)
        return Finish() if ended and not waits and not state.finished else None


def completed(candidate: Candidate, rung: int, state: CampaignState) -> bool:
    """Whether every seed of a candidate has a result at a rung."""
    trials = candidate.trials_at(rung)
    return len(trials) == len(state.seeds) and all(trial.status == "finished" for trial in trials.values())


def done_with(candidate: Candidate, rung: int, state: CampaignState) -> bool:
    """Whether a candidate will bring no more results at a rung."""
    return candidate.settled or candidate.rung > rung or completed(candidate, rung, state)
