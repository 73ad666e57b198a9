"""Candidate jobs: one submitit array job a candidate and rung, its tasks are the seeds."""

import json
import os
import signal
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import submitit

from asiarch.hpc.config import CampaignConfig
from asiarch.hpc.layout import RunLayout, TrialLayout
from asiarch.hpc.locks import is_locked
from asiarch.hpc.trial import TrialTask

TrialId = tuple[int, int, int]  # (candidate, rung, seed)


class Jobs:
    """Submits trials and says which of them are still alive.

    A trial that is submitted twice, because the head died between the submission and its journal line, does
    no harm: the lock in the trial's folder lets one process in, and a finished trial is not run again.
    """

    def __init__(self, run: RunLayout, config: CampaignConfig, warm: str | None) -> None:
        self._run = run
        self._config = config
        self._warm = warm
        self._jobs: dict[TrialId, submitit.Job[str]] = {}

    def submit(self, candidate: int, rung: int, seeds: Sequence[int]) -> list[str]:
        """Submit one array job; gives the job id of each seed's task."""
        slots = self._config.local.slots if self._config.executor == "local" else None
        tasks = [
            TrialTask(str(self._run.root), candidate, rung, seed, uuid.uuid4().hex[:12], slots, self._warm)
            for seed in seeds
        ]
        for seed in seeds:
            # what an earlier try wrote would be taken for this one's
            self._run.trial(candidate, rung, seed).progress.unlink(missing_ok=True)
        executor = self._executor(candidate, rung)
        with _detached_from_terminal():
            jobs = executor.submit_array(tasks)
        self._jobs.update({(candidate, rung, seed): job for seed, job in zip(seeds, jobs, strict=True)})
        return [job.job_id for job in jobs]

    def _executor(self, candidate: int, rung: int) -> submitit.AutoExecutor:
        executor = submitit.AutoExecutor(self._run.jobs(candidate, rung), cluster=self._config.executor)
        executor.update_parameters(
            name=f"{self._config.name}-{candidate:04d}-r{rung}", timeout_min=self._timeout_min()
        )
        if self._config.executor == "local":
            executor.update_parameters(tasks_per_node=self._config.local.ranks)
        else:
            executor.update_parameters(**_slurm_parameters(self._config))
        return executor

    def _timeout_min(self) -> int:
        trial_min = -(-self._config.trial.timeout // 60)
        if self._config.executor == "slurm":
            return trial_min
        # here a task's time in the queue counts too
        waiting = self._config.search.in_flight * self._config.seeds / self._config.local.slots
        return int(trial_min * (2 + waiting))

    def alive(self, trial: TrialId) -> bool:
        """Whether a process may still bring this trial's result."""
        job = self._jobs.get(trial)
        if job is not None and not job.done():
            return True
        return is_locked(self._run.trial(*trial).lock)

    def known(self, trial: TrialId) -> bool:
        """Whether this head itself submitted the trial."""
        return trial in self._jobs

    def stop(self, trials: Sequence[TrialId], patience_s: float) -> None:
        """Ask local trials to write a checkpoint and end; kill those that have not after `patience_s`."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            running = [
                layout for layout in (self._run.trial(*trial) for trial in trials) if is_locked(layout.lock)
            ]
            for layout in running:
                _signal_holder(layout, number)
            deadline = time.monotonic() + patience_s
            while any(is_locked(layout.lock) for layout in running) and time.monotonic() < deadline:
                time.sleep(0.05)


def _slurm_parameters(config: CampaignConfig) -> dict[str, object]:
    slurm = config.slurm
    parameters = {
        "slurm_partition": slurm.partition,
        "slurm_account": slurm.account,
        "slurm_qos": slurm.qos,
        "slurm_setup": list(slurm.setup) or None,
        "slurm_array_parallelism": slurm.max_in_flight,
        "slurm_additional_parameters": dict(slurm.extra) or None,
        "slurm_mem": None if slurm.mem_gb is None else f"{slurm.mem_gb}G",
        "timeout_min": slurm.time // 60,
        "nodes": slurm.nodes,
        "tasks_per_node": max(1, slurm.gpus_per_node),
        "gpus_per_node": slurm.gpus_per_node or None,
        "cpus_per_task": slurm.cpus_per_task,
    }
    return {name: value for name, value in parameters.items() if value is not None}


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
