"""Jobs on this machine: processes that wait for a slot, and hold their trial's lock while they train."""

import json
import os
import signal
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import submitit

from asiarch.hpc.config import CampaignConfig
from asiarch.hpc.jobs import End, TrialId
from asiarch.hpc.layout import RunLayout, TrialLayout
from asiarch.hpc.locks import is_locked
from asiarch.hpc.trial import TrialTask

STOP_PATIENCE_S = 30.0


class LocalJobs:
    """Jobs of submitit's local executor; see `Jobs`.

    A trial that is submitted twice, because the head died between the submission and its journal line, does
    no harm: the lock in the trial's folder lets one process in, and a finished trial is not run again.
    """

    def __init__(self, run: RunLayout, config: CampaignConfig, warm: str) -> None:
        self._run = run
        self._config = config
        self._warm = warm
        self._jobs: dict[TrialId, submitit.Job[str]] = {}

    def submit(
        self, candidate: int, rung: int, seeds: Sequence[int], attempt: int, exclude: Sequence[str]
    ) -> list[str]:
        """See `Jobs.submit`; here is one node alone, and jobs need no names."""
        slots = self._config.local.slots
        tasks = [
            TrialTask(str(self._run.root), candidate, rung, seed, uuid.uuid4().hex[:12], slots, self._warm)
            for seed in seeds
        ]
        for seed in seeds:
            # what an earlier try wrote would be taken for this one's
            self._run.trial(candidate, rung, seed).progress.unlink(missing_ok=True)
        executor = submitit.LocalExecutor(self._run.jobs(candidate, rung))
        executor.update_parameters(timeout_min=self._timeout_min(), tasks_per_node=self._config.local.ranks)
        with _detached_from_terminal():
            jobs = executor.submit_array(tasks)
        self._jobs.update({(candidate, rung, seed): job for seed, job in zip(seeds, jobs, strict=True)})
        return [job.job_id for job in jobs]

    def _timeout_min(self) -> int:
        # a task's time in the queue counts too
        waiting = self._config.search.in_flight * self._config.seeds / self._config.local.slots
        return int(-(-self._config.trial.timeout // 60) * (2 + waiting))

    def adopt(self, trial: TrialId, job: str) -> None:
        """Nothing to take over: the trial's lock says whether it lives."""

    def end(self, trial: TrialId) -> End | None:
        """See `Jobs.end`."""
        job = self._jobs.get(trial)
        if job is not None and not job.done():
            return None
        if is_locked(self._run.trial(*trial).lock):
            return None
        # a trial of a head before this one was stopped with it, most likely: not its own fault
        return End("killed", "the process is gone and left no result", own_fault=job is not None)

    def running_since(self, trial: TrialId) -> float | None:
        """Always: what waits for a slot has no progress file yet."""
        return 0.0

    def node(self, trial: TrialId) -> str:
        """There is this machine alone, which cannot be avoided."""
        return ""

    def stop(self, trials: Sequence[TrialId], patience_s: float) -> None:
        """See `Jobs.stop`."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            running = [
                layout for layout in (self._run.trial(*trial) for trial in trials) if is_locked(layout.lock)
            ]
            for layout in running:
                _signal_holder(layout, number)
            deadline = time.monotonic() + patience_s
            while any(is_locked(layout.lock) for layout in running) and time.monotonic() < deadline:
                time.sleep(0.05)

    def leave(self, trials: Sequence[TrialId]) -> None:
        """Processes end with their head, and go on with the next one."""
        self.stop(trials, STOP_PATIENCE_S)


def _signal_holder(trial: TrialLayout, number: signal.Signals) -> None:
    try:
        os.kill(int(json.loads(trial.lock.read_text())["pid"]), number)
    except (OSError, ValueError, KeyError):
        return  # it ended meanwhile, or has not signed yet and ends at its next look


@contextmanager
def _detached_from_terminal() -> Iterator[None]:
    """Children started inside ignore Ctrl-C: it is the head's to answer."""
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
