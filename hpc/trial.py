"""What runs in one task of a candidate job: one candidate x one seed x one rung, in a process of its own.

This module is what submitit pickles, by name and four small values: state to resume from lives in the trial's
folder, never in a pickle. Torch and DeepSpeed are imported once the task has its slot.
"""

import json
import os
import signal
import socket
import sys
import time
import traceback
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from submitit.helpers import DelayedSubmission

from asiarch.hpc.failures import classify
from asiarch.hpc.layout import RunLayout, TrialLayout
from asiarch.hpc.locks import try_lock
from asiarch.hpc.slots import local_slot
from asiarch.results.files import atomic_write_text
from asiarch.results.trial import TrialKey


class Stopped(BaseException):
    """The task was told to stop; what it had trained is in its checkpoint."""


@dataclass(frozen=True)
class TrialTask:
    """The callable that submitit runs.

    `slots` is the number of trials that this machine trains at a time; None where Slurm does the queueing.
    """

    run_dir: str
    candidate: int
    rung: int
    seed: int
    slots: int | None

    def __call__(self) -> str:
        """Train and store this trial; the outcome in a word. What counts is the file it leaves."""
        started = time.time()
        stop = StopSignal()
        run = RunLayout(Path(self.run_dir))
        trial = run.trial(self.candidate, self.rung, self.seed)
        trial.root.mkdir(parents=True, exist_ok=True)
        lock = os.open(trial.lock, os.O_RDWR | os.O_CREAT, 0o644)
        if not try_lock(lock, patience_s=2.0):
            return "already running elsewhere"
        if trial.result.exists() or trial.failure.exists():
            return "already done"
        _sign(lock)
        # what climbs goes first: it holds back the proposals that wait for its result
        ticket = f"{9 - self.rung}-{self.candidate:04d}-{self.seed}"
        queue = nullcontext() if self.slots is None else local_slot(run.slots, self.slots, ticket)
        try:
            with queue:
                waited_s = time.time() - started
                return _run(run, trial, self, stop, waited_s)
        except Stopped:
            return "stopped"
        finally:
            os.close(lock)

    def checkpoint(self) -> DelayedSubmission:
        """For submitit: the same task again; it goes on from the trial's own checkpoint."""
        return DelayedSubmission(self)


class StopSignal:
    """SIGTERM asks the task to stop: at once while it waits, after a checkpoint while it trains."""

    def __init__(self) -> None:
        self.requested = False
        self.training = False
        signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        if not self.training:
            raise Stopped


def _sign(lock: int) -> None:
    os.ftruncate(lock, 0)
    os.pwrite(lock, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)


def _run(run: RunLayout, trial: TrialLayout, task: TrialTask, stop: StopSignal, waited_s: float) -> str:
    try:
        from asiarch.hpc.train_trial import train_trial

        train_trial(run, TrialKey(task.candidate, task.rung, task.seed), stop, waited_s)
    except Exception as error:
        _record_failure(run, trial, task, error)
        raise
    return "finished"


def _record_failure(run: RunLayout, trial: TrialLayout, task: TrialTask, error: Exception) -> None:
    cause = classify(error, run.program(task.candidate))
    record: dict[str, Any] = {
        "cause": cause,
        "detail": one_line(f"{type(error).__name__}: {error}"),
        "traceback": traceback.format_exc()[-8000:],
    }
    print(f"trial failed: cause={cause} {record['detail']}", file=sys.stderr, flush=True)
    atomic_write_text(trial.failure, json.dumps(record, indent=1) + "\n")


def process_age_s() -> float:
    """Seconds since this process was created (Linux)."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    uptime_s = float(Path("/proc/uptime").read_text().split()[0])
    return uptime_s - ticks / os.sysconf("SC_CLK_TCK")


def one_line(text: str, limit: int = 300) -> str:
    """The text on one line, cut to `limit` characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 3] + "..."
