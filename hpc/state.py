"""What a campaign's journal says: candidates, their trials, and where each of them stands.

The state is a pure function of the events, in their order; nothing else goes into it.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from datetime import datetime
from functools import cached_property
from typing import Any, Literal

from asiarch.hpc.accounting import Usage
from asiarch.hpc.failures import MENDABLE, POLICIES
from asiarch.hpc.journal import Event
from asiarch.models.errors import UserError
from asiarch.results.trial import TrialSummary

# broken: it failed in training, and its proposer may mend it
CandidateStatus = Literal["proposed", "refused", "training", "broken", "stopped", "failed", "finished"]
TrialStatus = Literal["submitted", "interrupted", "finished", "failed"]
NODE_MAY_FAIL = 2  # times, before trials stay away from it
Slot = tuple[int, int]  # (rung, seed): one trial of a candidate


@dataclass
class Trial:
    """One candidate x one seed x one rung, as far as the head knows."""

    status: TrialStatus
    job: str
    restarts: int = 0
    host: str = ""  # where it was seen at work; empty before
    measured: dict[str, Any] | None = None  # what `summary` is made of
    seconds: dict[str, float] = field(default_factory=dict)
    cause: str = ""
    detail: str = ""
    reached: str = ""  # how far it had come when it was last interrupted
    was_cancelled: bool = False  # before this submission

    @property
    def settled(self) -> bool:
        return self.status in ("finished", "failed")

    @cached_property
    def _summary(self) -> TrialSummary:
        return TrialSummary.from_json(self.measured or {})

    @property
    def summary(self) -> TrialSummary | None:
        """The numbers of a finished trial; made when they are asked for, which `status` does not."""
        return None if self.measured is None else self._summary


@dataclass
class Candidate:
    """One proposed program and the trials it was given."""

    id: int
    name: str
    proposer: str
    parent: int | None
    fingerprint: str
    baseline: bool
    status: CandidateStatus = "proposed"
    rung: int = 0
    trials: dict[Slot, Trial] = field(default_factory=dict)
    submissions: Counter[int] = field(default_factory=Counter)  # by rung
    reason: str = ""
    proposed_as: str = ""  # its first program's fingerprint
    origins: tuple[str, ...] = ()  # of its idea, where an LLM named them
    may_repair: int = 0  # times, after failures in training
    repairs: int = 0
    reflected: bool = False  # whether its results were analysed, or could not be
    judgement: float | None = None  # the judge's score, 1 to 10

    @property
    def settled(self) -> bool:
        """Whether nothing more will run for this candidate."""
        return self.status in ("refused", "stopped", "failed", "finished")

    def trials_at(self, rung: int) -> dict[int, Trial]:
        """The trials at a rung, by seed."""
        return {seed: trial for (at, seed), trial in self.trials.items() if at == rung}

    def summaries(self) -> list[TrialSummary]:
        return [trial.summary for trial in self.trials.values() if trial.summary is not None]

    @property
    def refused_by(self) -> str:
        """The check that refused it first, where one did."""
        return self.reason.partition(":")[0]

    @property
    def origin(self) -> str:
        """Who proposed it, and from which candidate."""
        return self.proposer if self.parent is None else f"{self.proposer} <- {self.parent:04d}"


@dataclass
class CampaignState:
    """A campaign at one moment.

    `seeds` and `last_rung` come from the journal's first event.
    """

    started: str = ""
    last_time: str = ""
    seeds: tuple[int, ...] = ()
    last_rung: int = 0
    candidates: dict[int, Candidate] = field(default_factory=dict)
    node_failures: Counter[str] = field(default_factory=Counter)
    finished: bool = False
    proposing_ended: str = ""
    head: dict[str, Any] | None = None
    head_jobs: set[str] = field(default_factory=set)  # of Slurm
    usage: Usage | None = None  # by Slurm's accounting
    stop_reason: str = ""
    judge: dict[str, Any] | None = None  # what became of its calibration
    submission_refused: str = ""  # sbatch's words, until it takes a job again
    # what follows is in the candidates too; kept, as all of them are too many to look through at every event
    _open: dict[int, Candidate] = field(default_factory=dict)
    _unreflected: dict[int, Candidate] = field(default_factory=dict)
    _trials_gpu_hours: float = 0.0
    _head_since: str = ""
    _heads_before_s: float = 0.0

    @classmethod
    def replay(cls, events: Iterable[Event]) -> "CampaignState":
        """The state after all of `events`."""
        state = cls()
        for event in events:
            state.apply(event)
        return state

    def apply(self, event: Event) -> None:
        """Take one event in.

        Raises:
            UserError: the event is of a kind that this version does not know.
        """
        handler = getattr(self, f"_on_{event['event']}", None)
        if handler is None:
            raise UserError(
                f"the journal has an event {event['event']!r}, which this version of asiarch-hpc does not know: "
                "use the version that wrote it"
            )
        handler(event)
        self.last_time = event["time"]
        if "candidate" in event:
            self._note_open(self.candidates[event["candidate"]])

    def _note_open(self, candidate: Candidate) -> None:
        if candidate.settled:
            self._open.pop(candidate.id, None)
            if candidate.status in ("finished", "stopped") and not (
                candidate.baseline or candidate.reflected
            ):
                self._unreflected[candidate.id] = candidate
            else:
                self._unreflected.pop(candidate.id, None)
        elif candidate.id not in self._open:
            self._open[candidate.id] = candidate
            if candidate.id < max(self._open):  # reopened
                self._open = dict(sorted(self._open.items()))

    @property
    def summaries(self) -> list[TrialSummary]:
        return [summary for candidate in self.candidates.values() for summary in candidate.summaries()]

    @property
    def gpu_hours(self) -> float:
        """By Slurm's accounting where there is one, else those of all finished trials."""
        if self.usage is not None:
            return self.usage.gpu_hours
        return self._trials_gpu_hours

    @property
    def active_s(self) -> float:
        """Wall time with a head at work, up to the last event; a head that died wrote no head_stopped."""
        own = seconds_between(self._head_since, self.last_time) if self._head_since else 0.0
        return self._heads_before_s + own

    def nodes_to_avoid(self) -> list[str]:
        """Those that failed twice under trials, as the trials' ends or Slurm's accounting have it."""
        counts = self.node_failures | (Counter() if self.usage is None else Counter(self.usage.node_failures))
        return sorted(node for node, times in counts.items() if times >= NODE_MAY_FAIL)

    @property
    def under_way(self) -> dict[tuple[int, int, int], Trial]:
        """The trials that were submitted and have not ended, by (candidate, rung, seed)."""
        return {
            (candidate.id, rung, seed): trial
            for candidate in self.unsettled
            for (rung, seed), trial in candidate.trials.items()
            if trial.status == "submitted"
        }

    @property
    def unsettled(self) -> list[Candidate]:
        """The candidates for which something may still run, by their numbers."""
        return list(self._open.values())

    @property
    def unreflected(self) -> list[Candidate]:
        """The candidates with results, baselines aside, that nobody has analysed."""
        return list(self._unreflected.values())

    def _on_campaign_started(self, event: Event) -> None:
        self.started = self._head_since = event["time"]
        self.seeds = tuple(event["seeds"])
        self.last_rung = event["rungs"] - 1

    def _on_head_started(self, event: Event) -> None:
        self._heads_before_s, self._head_since = self.active_s, event["time"]
        self.head_jobs |= {event["slurm_job"]} - {""}
        self.head = {"pid": event["pid"], "host": event["host"], "since": event["time"]}
        self.stop_reason = ""

    def _on_head_stopped(self, event: Event) -> None:
        self.head = None
        self.stop_reason = event["reason"]
        self.last_time = event["time"]
        self._heads_before_s, self._head_since = self.active_s, ""

    def _on_proposed(self, event: Event) -> None:
        self.candidates[event["candidate"]] = Candidate(
            id=event["candidate"],
            name=event["name"],
            proposer=event["proposer"],
            parent=event["parent"],
            fingerprint=event["fingerprint"],
            baseline=event["baseline"],
            may_repair=event.get("may_repair", 0),
            proposed_as=event["fingerprint"],
            origins=tuple(event.get("origins", ())),
        )

    def _on_accepted(self, event: Event) -> None:
        self.candidates[event["candidate"]].status = "training"

    def _on_refused(self, event: Event) -> None:
        candidate = self.candidates[event["candidate"]]
        candidate.status = "refused"
        candidate.reason = event["reason"]

    def _on_submitted(self, event: Event) -> None:
        candidate = self.candidates[event["candidate"]]
        candidate.submissions[event["rung"]] += 1
        self.submission_refused = ""
        trials = candidate.trials
        for seed, job in zip(event["seeds"], event["jobs"], strict=True):
            known = trials.get((event["rung"], seed))
            trials[event["rung"], seed] = trial = Trial("submitted", job)
            if known is not None:
                trial.restarts, trial.reached = known.restarts, known.reached
                trial.was_cancelled = known.was_cancelled or known.cause == "cancelled"

    def _on_submission_refused(self, event: Event) -> None:
        self.submission_refused = event["reason"]

    def _trial(self, event: Event) -> Trial:
        return self.candidates[event["candidate"]].trials[event["rung"], event["seed"]]

    def _on_trial_started(self, event: Event) -> None:
        self._trial(event).host = event["host"]

    def _on_trial_finished(self, event: Event) -> None:
        trial = self._trial(event)
        trial.status = "finished"
        trial.measured = event["summary"]
        trial.seconds = event["seconds"]
        self._trials_gpu_hours += trial.seconds.get("gpu_hours", 0.0)
        self._close_rung(self.candidates[event["candidate"]])

    def _on_trial_interrupted(self, event: Event) -> None:
        trial = self._trial(event)
        trial.status = "interrupted"
        trial.restarts += event["counts"]
        trial.reached = event["reached"]
        if POLICIES.get(event["cause"]) == "elsewhere" and event["node"]:
            self.node_failures[event["node"]] += 1
        trial.cause, trial.detail = event["cause"], event["detail"]

    def _on_trial_failed(self, event: Event) -> None:
        trial = self._trial(event)
        trial.status = "failed"
        trial.cause, trial.detail = event["cause"], event["detail"]
        self._close_rung(self.candidates[event["candidate"]])

    def _close_rung(self, candidate: Candidate) -> None:
        if not all(trial.settled for trial in candidate.trials.values()):
            return
        trials = candidate.trials_at(candidate.rung)
        if len(trials) < len(self.seeds):
            return
        failed = [trial for trial in trials.values() if trial.status == "failed"]
        if failed:
            mendable = all(trial.cause in MENDABLE for trial in failed)
            mendable &= candidate.repairs < candidate.may_repair
            candidate.status = "broken" if mendable else "failed"
            candidate.reason = f"{failed[0].cause}: {failed[0].detail}"
        elif candidate.rung == self.last_rung:
            candidate.status = "finished"

    def _on_repaired(self, event: Event) -> None:
        """A program that failed in training was mended, and starts anew; without a fingerprint it was not."""
        candidate = self.candidates[event["candidate"]]
        candidate.repairs += 1
        if event["fingerprint"] is None:
            candidate.status = "failed"
            return
        candidate.status, candidate.reason, candidate.rung = "proposed", "", 0
        candidate.fingerprint = event["fingerprint"]
        candidate.trials.clear()

    def _on_judge_calibrated(self, event: Event) -> None:
        self.judge = {"usable": event["usable"], "reason": event["reason"]}
        for number, score in event["scores"].items():
            self.candidates[int(number)].judgement = score

    def _on_judged(self, event: Event) -> None:
        self.candidates[event["candidate"]].judgement = event["score"]

    def _on_analysed(self, event: Event) -> None:
        self.candidates[event["candidate"]].reflected = True

    def _on_promoted(self, event: Event) -> None:
        self.candidates[event["candidate"]].rung = event["rung"]

    def _on_stopped_early(self, event: Event) -> None:
        candidate = self.candidates[event["candidate"]]
        candidate.status = "stopped"
        candidate.reason = event["reason"]

    def _on_accounted(self, event: Event) -> None:
        self.usage = Usage(**{part.name: event[part.name] for part in fields(Usage)})

    def _on_cancelled(self, event: Event) -> None:
        candidate = self.candidates[event["candidate"]]
        candidate.status = "stopped"
        candidate.reason = event["reason"]
        for trial in candidate.trials.values():
            if not trial.settled:
                trial.status, trial.cause, trial.detail = "failed", "cancelled", event["reason"]

    def _on_reopened(self, event: Event) -> None:
        candidate = self.candidates[event["candidate"]]
        candidate.status = "training"
        candidate.reason = ""
        for trial in candidate.trials.values():
            if trial.status == "failed":
                trial.status, trial.restarts, trial.cause, trial.was_cancelled = "interrupted", 0, "", False

    def _on_budget_reached(self, event: Event) -> None:
        self.proposing_ended = event["reason"]

    def _on_campaign_finished(self, event: Event) -> None:
        self.finished = True


def interruption(key: tuple[int, int, int], trial: Trial) -> dict[str, Any]:
    """The fields of a `trial_interrupted` event for a trial that `asiarch-hpc stop --now` cut short."""
    names = dict(zip(("candidate", "rung", "seed"), key, strict=True))
    rest = {"cause": "interrupted", "detail": "stop requested", "counts": 0, "node": ""}
    return {**names, **rest, "reached": trial.reached}


def seconds_between(earlier: str, later: str) -> float:
    """The seconds from one ISO 8601 time to another."""
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()
