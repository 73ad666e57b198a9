"""One campaign at a glance, gathered from its journal and its trials' progress files. Only reads."""

import time
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from asiarch.hpc.accounting import Usage
from asiarch.hpc.job_names import job_prefix
from asiarch.hpc.journal import head_is_alive
from asiarch.hpc.layout import RunLayout
from asiarch.hpc.locks import is_locked
from asiarch.hpc.progress import TrialProgress, read_progress
from asiarch.hpc.settings import Settings, read_settings
from asiarch.hpc.slurm_states import PendingJob, pending_jobs
from asiarch.hpc.standings import Standings, current_ranking, current_yields, read_standings
from asiarch.hpc.state import CampaignState, Trial, seconds_between
from asiarch.results.ranking import Ranking
from asiarch.results.yields import Yields

_TABLES = ("running", "yields", "ranking")


@dataclass(frozen=True)
class RunningTrial:
    """A trial that trains now."""

    candidate: int
    rung: int
    seed: int
    progress: TrialProgress


@dataclass(frozen=True)
class Status:
    """What `asiarch-hpc status` shows.

    Attributes:
        head: "running", "finished" or "stopped".
        elapsed_s: wall time with a head at work; `trial_s` is the sum over trials, `training_s` what of it was
            training, `slots` how many trials may run at a time.
        left_s: the estimate of what is left at this rate; None before the first candidate is settled.
        ends: when it will be done at this rate, local time to the minute; None where `left_s` is.
        gpu_hours: by Slurm's accounting where there is one (then `usage` has its parts), else of finished trials.
        pending: how many jobs wait in Slurm, by its reason; `next_start` is the first start it expects, or empty.
        failures: how many trials failed, by cause.
        refused: how many programs the checker refused, by check.
        yields: what each proposer's candidates came to, and those of each origin of ideas.
        submission_refused: sbatch's words where it takes no job now, else empty.
        reference: the name of the candidate that all are compared with; empty before it is proposed.
        ranking: this and `yields` as the head wrote them last, or made now where it has not yet.
        ranked: when the head wrote them, local time to the minute; empty where they were made now.
    """

    name: str
    head: str
    head_detail: str
    elapsed_s: float
    left_s: float | None
    ends: str | None
    total_candidates: int
    proposed: int
    candidates: dict[str, int]
    trials: dict[str, int]
    running: tuple[RunningTrial, ...]
    trial_s: float
    training_s: float
    evaluation_s: float
    startup_s: float
    gpu_hours: float
    gpu_hours_allowed: float | None
    usage: Usage | None
    slots: int
    pending: dict[str, int]
    next_start: str
    failures: dict[str, int]
    refused: dict[str, int]
    yields: Yields
    submission_refused: str
    reference: str
    ranking: Ranking
    ranked: str

    def to_json(self) -> dict[str, Any]:
        """For scripts: the same, with the running trials, the yields and the ranking as plain tables."""
        plain = {name: value for name, value in vars(self).items() if name not in _TABLES}
        plain["usage"] = None if self.usage is None else asdict(self.usage)
        running = [
            {"candidate": t.candidate, "rung": t.rung, "seed": t.seed, **vars(t.progress)}
            for t in self.running
        ]
        yields = self.yields.to_json()
        plain |= {"yields": yields["proposers"], "yields_by_origin": yields["origins"]}
        return plain | {"running": running, "ranking": self.ranking.to_json()}


def read_status(layout: RunLayout, state: CampaignState, leaders: int | None = None) -> Status:
    """The campaign's status now.

    Args:
        state: by its journal.
        leaders: how many rows of the ranking to read; all of them by default.

    Raises:
        UserError: its `campaign.yaml` cannot be read.
    """
    settings = read_settings(layout.config)
    alive = head_is_alive(layout.root)
    died = state.head is not None and not alive
    running = _running(layout, state)
    settled = sum(candidate.settled for candidate in state.candidates.values())
    elapsed = state.active_s + (_since(state.last_time) if alive and state.last_time else 0.0)
    trials = [trial for candidate in state.candidates.values() for trial in candidate.trials.values()]
    seconds = [trial.seconds for trial in trials if trial.seconds]
    left = _left(elapsed, settled, state, settings)
    pending = _pending(layout, settings, state)
    written = _written_standings(layout, died, leaders)
    ranking, yielded, ranked = written or (*_standings(layout, state), "")
    starts = sorted(job.expected_start for job in pending if job.expected_start)
    return Status(
        name=settings.name,
        head="finished" if state.finished else "running" if alive else "stopped",
        head_detail=_head_detail(state, alive),
        elapsed_s=elapsed,
        left_s=left,
        ends=(datetime.now() + timedelta(seconds=left)).isoformat(" ", "minutes") if left else None,
        total_candidates=settings.candidates,
        proposed=len(state.candidates),
        candidates=dict(Counter(candidate.status for candidate in state.candidates.values())),
        trials=_trial_counts(trials, running),
        running=running,
        trial_s=sum(s["elapsed"] for s in seconds),
        training_s=sum(s["training"] for s in seconds),
        evaluation_s=sum(s["evaluation"] for s in seconds),
        startup_s=sum(s["startup"] for s in seconds),
        gpu_hours=state.gpu_hours,
        gpu_hours_allowed=settings.gpu_hours,
        usage=state.usage,
        pending=dict(Counter(job.reason for job in pending)),
        next_start=starts[0] if starts else "",
        slots=settings.slots,
        failures=dict(Counter(trial.cause for trial in trials if trial.status == "failed")),
        refused=dict(Counter(c.refused_by for c in state.candidates.values() if c.status == "refused")),
        yields=yielded,
        submission_refused=state.submission_refused,
        reference=state.candidates[0].name if state.candidates else "",
        ranking=ranking,
        ranked=ranked,
    )


def _written_standings(
    layout: RunLayout, died: bool, leaders: int | None
) -> tuple[Ranking, Yields, str] | None:
    """What the head wrote last, and when; None where it died before it wrote what its journal has."""
    try:
        written, journal = ((layout.root / name).stat().st_mtime for name in ("yields.json", "journal.jsonl"))
    except FileNotFoundError:
        return None
    found = None if died and written < journal else read_standings(layout, leaders)
    return None if found is None else (*found, datetime.fromtimestamp(written).isoformat(" ", "minutes"))


def _standings(layout: RunLayout, state: CampaignState) -> Standings:
    ranking = current_ranking(layout, state)
    return ranking, current_yields(state, ranking)


def _pending(layout: RunLayout, settings: Settings, state: CampaignState) -> list[PendingJob]:
    if settings.executor == "local" or state.finished:
        return []
    return pending_jobs(job_prefix(layout, settings.name))


def _head_detail(state: CampaignState, alive: bool) -> str:
    if alive and state.head is not None:
        return f"pid {state.head['pid']} on {state.head['host']}"
    if state.finished or not state.started:
        return ""
    return f"stopped by {state.stop_reason}" if state.stop_reason else "the head died"


def _running(layout: RunLayout, state: CampaignState) -> tuple[RunningTrial, ...]:
    found = []
    for candidate in state.unsettled:
        for (rung, seed), trial in candidate.trials.items():
            paths = layout.trial(candidate.id, rung, seed)
            progress = read_progress(paths.progress) if trial.status == "submitted" else None
            if progress is not None and is_locked(paths.lock):
                found.append(RunningTrial(candidate.id, rung, seed, progress))
    return tuple(found)


def _trial_counts(trials: list[Trial], running: tuple[RunningTrial, ...]) -> dict[str, int]:
    counts = Counter(trial.status for trial in trials)
    waiting = counts["submitted"] - len(running)
    return {
        "finished": counts["finished"],
        "running": len(running),
        "queued": max(0, waiting) + counts["interrupted"],
        "failed": counts["failed"],
    }


def _left(elapsed: float, settled: int, state: CampaignState, settings: Settings) -> float | None:
    """Until all candidates are done or the GPU-hours are used, whichever comes first."""
    if state.finished:
        return 0.0
    if settled == 0:
        return None
    total = len(state.candidates) if state.proposing_ended else settings.candidates
    left = elapsed / settled * (total - settled)
    if settings.gpu_hours is not None and state.gpu_hours > 0:
        left = min(left, max(0.0, elapsed * (settings.gpu_hours / state.gpu_hours - 1)))
    return left


def _since(moment: str) -> float:
    now = datetime.fromtimestamp(time.time(), timezone.utc).isoformat()
    return max(0.0, seconds_between(moment, now))
