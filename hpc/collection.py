"""What trials left behind: results that are sound, failures with their cause, and jobs that ended without a word."""

import os
import time
from collections.abc import Callable
from pathlib import Path

from asiarch.hpc.config import CampaignConfig
from asiarch.hpc.failures import POLICIES, Implausible, last_words, read_failure
from asiarch.hpc.jobs import End, Jobs, TrialId
from asiarch.hpc.layout import RunLayout, TrialLayout
from asiarch.hpc.plausibility import look_for_implausible_loss
from asiarch.hpc.progress import TrialProgress, read_progress
from asiarch.hpc.state import CampaignState, Trial
from asiarch.hpc.storage import require_storage
from asiarch.results.record import TrainCurve, TrialRecord
from asiarch.results.schema import read_trial
from asiarch.results.trial import BadResult, TrialKey

STORAGE_GRACE_S = 60.0  # what is found dead so soon after the disk came back died of it
# a trial's folder is looked into ever less often: a shared disk has better to do, and Slurm fills the slots meanwhile
LOOK_EVERY_S = 10.0
LOOK_SHARE = 0.02  # of the time that it has been under way


class Collector:
    """Looks after the trials under way, and has the journal written for each that ends.

    Args:
        record: writes an event and its fields to the journal.
        after_trial: called with the candidate's number when one of its trials is settled.
        storage_was_bad: the campaign's disk could not be written until now.
    """

    def __init__(
        self,
        run: RunLayout,
        config: CampaignConfig,
        state: CampaignState,
        jobs: Jobs,
        record: Callable[..., None],
        after_trial: Callable[[int], None],
        storage_was_bad: bool,
    ) -> None:
        self._run = run
        self._config = config
        self._state = state
        self._jobs = jobs
        self._record = record
        self._after_trial = after_trial
        self._storage_bad_until = time.monotonic() + (STORAGE_GRACE_S if storage_was_bad else 0.0)
        self._since: dict[
            TrialId, tuple[str, float]
        ] = {}  # its job, and when this head first saw it under way
        self._next_look: dict[TrialId, float] = {}
        self._reference_curves: dict[TrialId, TrainCurve] = {}

    def _trial(self, key: TrialId) -> Trial:
        return self._state.candidates[key[0]].trials[key[1:]]

    def collect(self) -> bool:
        """Take in what ended since the last look; whether anything was new."""
        found = False
        for key, trial in self._state.under_way.items():
            if self._is_due(key, trial.job):
                found |= self._collect_trial(key)
        return found

    def _is_due(self, key: TrialId, job: str) -> bool:
        now = time.monotonic()
        if self._since.get(key, ("",))[0] != job:
            self._since[key], self._next_look[key] = (job, now), now
        if now < self._next_look[key]:
            return False
        self._next_look[key] = now + min(LOOK_EVERY_S, LOOK_SHARE * (now - self._since[key][1]))
        return True

    def _collect_trial(self, key: TrialId) -> bool:
        layout = self._run.trial(*key)
        # asked before the files are: a trial that ends in between is seen with its files at the next look
        end = self._jobs.end(key)
        files = _names_in(layout.root)
        progress = read_progress(layout.progress) if layout.progress.name in files else None
        started = self._note_start(key, progress)
        if layout.result.name in files:
            if not self._reference_is_settled(key):
                return started  # what is plausible is not known yet
            self._take_result(key)
        elif layout.failure.name in files and (failure := read_failure(layout.failure)) is not None:
            self._take_failure(key, End(*failure, own_fault=failure[0] != "storage"))
        elif end is not None:
            self._take_failure(key, end)
        elif (overdue := self._overdue(key, progress)) is not None:
            self._jobs.stop([key], patience_s=1.0)
            self._take_failure(key, overdue)
        else:
            return started
        return True

    def _overdue(self, key: TrialId, progress: TrialProgress | None) -> End | None:
        """The verdict on a trial that has been at work, or silent, for too long."""
        running_since = self._jobs.running_since(key)
        if progress is None or running_since is None:
            return None
        # what a run before this one wrote does not count
        now, timeout, silence = time.time(), self._config.trial.timeout, self._config.watchdog.no_progress
        if now - max(progress.started, running_since) > timeout:
            return End("time_limit", f"not done after {timeout} s", own_fault=True)
        if silence is not None and now - max(progress.updated, running_since) > silence:
            return End("no_progress", f"no sign of life for {silence} s", own_fault=True)
        return None

    def _reference_is_settled(self, key: TrialId) -> bool:
        reference = self._state.candidates[0].trials.get(key[1:])
        return self._is_known(key[0]) or (reference is not None and reference.settled)

    def _is_known(self, candidate: int) -> bool:
        return candidate < len(self._config.baselines)

    def _note_start(self, key: TrialId, progress: TrialProgress | None) -> bool:
        if progress is None or self._trial(key).host:
            return False
        self._record("trial_started", **trial_names(key), host=progress.host, pid=progress.pid)
        return True

    def _take_result(self, key: TrialId) -> None:
        path = self._run.trial(*key).result
        try:
            record = read_trial(path)
            if record.key != TrialKey(*key):
                raise BadResult(f"it says that it is {record.key}")
            summary = record.summary()
            self._look_for_leak(record)
        except BadResult as error:
            self._take_failure(key, End("bad_result", error.reason, own_fault=True))
            return
        except Implausible as error:
            self._take_failure(key, End(error.cause, f"Implausible: {error}", own_fault=True))
            return
        seconds = {
            "elapsed": record.elapsed_s,
            "startup": record.startup_s,
            "training": record.training_s,
            "evaluation": record.evaluation_s,
            "gpu_hours": record.gpu_hours,
        }
        self._record("trial_finished", **trial_names(key), summary=summary.to_json(), seconds=seconds)
        self._after_trial(key[0])

    def _look_for_leak(self, record: TrialRecord) -> None:
        """Again what the trial's watchdog looks for: it may have run before the reference's log was there."""
        key = record.key
        reference = (0, key.rung, key.seed)
        path = self._run.trial(*reference).result
        if self._is_known(key.candidate) or not path.exists():
            return
        if reference not in self._reference_curves:
            self._reference_curves[reference] = read_trial(path).train
        look_for_implausible_loss(
            record.train.step.tolist(),
            record.train.loss.tolist(),
            self._reference_curves[reference],
            self._config.watchdog.implausible,
            self._config.training.warmup_steps,
        )

    def _take_failure(self, key: TrialId, end: End) -> None:
        trial, progress = self._trial(key), read_progress(self._run.trial(*key).progress)
        if end.cause == "killed":
            end = self._look_into_logs(key, end)
        if end.cause in ("storage", "environment", "killed"):
            # nothing is decided while nothing can be written
            require_storage(self._run.root)
            require_storage(self._run.candidates)
        reached = "" if progress is None else f"{progress.phase} {progress.step}"
        # what is interrupted again and again at the same place would be so for ever
        again = end.cause in ("interrupted", "storage") and reached == trial.reached
        counts = int(end.own_fault or again)
        names = {**trial_names(key), "cause": end.cause, "detail": end.detail}
        once_more = trial.restarts + counts <= self._config.trial.max_restarts
        # a person who cancels it a second time means it
        once_more &= not (end.cause == "cancelled" and trial.was_cancelled)
        if POLICIES[end.cause] in ("resume", "elsewhere") and once_more:
            set_aside(self._run.trial(*key))
            self._record(
                "trial_interrupted",
                **names,
                counts=counts,
                reached=reached,
                node=end.node or self._jobs.node(key),
            )
        else:
            self._record("trial_failed", **names)
            self._after_trial(key[0])

    def _look_into_logs(self, key: TrialId, end: End) -> End:
        """A better name for a death that left no record, where its log or the disk gives one."""
        if time.monotonic() < self._storage_bad_until:
            return End("storage", f"{end.detail}; the disk could not be written", own_fault=False)
        folder = self._run.jobs(key[0], key[1])
        said = last_words(folder.glob(f"{self._trial(key).job}_*_log.err"))
        if said is None:
            return end
        return End(said[0], f"{said[1]} ({end.detail})", said[0] not in ("interrupted", "storage"), end.node)


def set_aside(layout: TrialLayout) -> None:
    """Keep what a failed try left under a name of its own, out of the next try's way."""
    for path in (layout.result, layout.failure):
        if path.exists():
            tries = len(list(path.parent.glob(f"{path.stem}-try*{path.suffix}")))
            path.rename(path.with_name(f"{path.stem}-try{tries}{path.suffix}"))


def trial_names(key: TrialId) -> dict[str, int]:
    """The fields of an event that name a trial."""
    return dict(zip(("candidate", "rung", "seed"), key, strict=True))


def _names_in(folder: Path) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder))
    except FileNotFoundError:
        return frozenset()
