"""What runs in one task of a candidate job: one candidate x one seed x one rung, in a process of its own.

This module is what submitit pickles, by name and four small values: state to resume from lives in the trial's
folder, never in a pickle. Torch and DeepSpeed are imported once the task has its slot.
"""

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from submitit.helpers import DelayedSubmission

from asiarch.hpc.config import load_frozen
from asiarch.hpc.failures import Cause, classify
from asiarch.hpc.layout import RunLayout, TrialLayout
from asiarch.hpc.locks import try_lock
from asiarch.hpc.slots import gpus_of_slot, local_slot, visible_gpus
from asiarch.hpc.training.ranks import Meeting, Ranks
from asiarch.hpc.warm import fork_child
from asiarch.models.sandbox import (
    bubblewrap,
    clean_environment,
    confine_this_process,
    exit_code,
    require_layers,
)
from asiarch.results.files import atomic_write_text
from asiarch.results.trial import TrialKey

FILE_GB = 64.0  # no checkpoint comes near it
PEER_SAYS_S = 3.0  # how long a rank that lost another one waits for the other's own words

# how the child that trains says what became of its trial; any other exit code is a failure
EXIT_WORDS = {0: "finished", 75: "stopped"}


class Stopped(BaseException):
    """The task was told to stop; what it had trained is in its checkpoint."""


@dataclass(frozen=True)
class TrialTask:
    """The callable that submitit runs, once in each rank's process.

    `attempt` names this submission. `slots` is the number of trials that this machine trains at a time, and
    `warm` the address of the process that forks them; both None where Slurm does the queueing.
    """

    run_dir: str
    candidate: int
    rung: int
    seed: int
    attempt: str
    slots: int | None
    warm: str | None

    def __call__(self) -> str:
        """Train and store this trial; the outcome in a word. What counts is the file it leaves."""
        StopSignal()  # from now on a signal raises Stopped
        ranks = Ranks.from_submitit()
        self.layout.root.mkdir(parents=True, exist_ok=True)
        try:
            return self._lead(ranks) if ranks.rank == 0 else self._join(ranks)
        except Stopped:
            return "stopped"
        finally:
            if ranks.rank == 0 and ranks.world > 1:
                self.meeting.call_off("rank 0 ended before it trained")

    @property
    def run(self) -> RunLayout:
        """The campaign's folder."""
        return RunLayout(Path(self.run_dir))

    @property
    def layout(self) -> TrialLayout:
        """The trial's folder."""
        return self.run.trial(self.candidate, self.rung, self.seed)

    @property
    def meeting(self) -> Meeting:
        """Where the ranks of this attempt meet."""
        # a job that Slurm requeues is the same submission, started again
        again = os.environ.get("SLURM_RESTART_COUNT", "0")
        return Meeting.of(self.layout.root, f"{self.attempt}-{again}")

    def _lead(self, ranks: Ranks) -> str:
        """Rank 0: train once the trial's lock and a slot are held."""
        started = time.time()
        trial = self.layout
        lock = os.open(trial.lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if not try_lock(lock, patience_s=2.0):
                return "already running elsewhere"
            if trial.result.exists() or trial.failure.exists():
                return "already done"
            _sign(lock)
            # what climbs goes first: it holds back the proposals that wait for its result
            ticket = f"{9 - self.rung}-{self.candidate:04d}-{self.seed}"
            queue = nullcontext() if self.slots is None else local_slot(self.run.slots, self.slots, ticket)
            with queue as slot:
                waited_s = time.time() - started
                began = time.time() - (_process_age_s() - waited_s)
                if slot is None:
                    return self._run(ranks, began, [lock], None)
                gpus = gpus_of_slot(slot.number, ranks.world, visible_gpus())
                return self._run(ranks, began, [lock, slot.handle], gpus)
        finally:
            os.close(lock)

    def _join(self, ranks: Ranks) -> str:
        """Another rank: train with rank 0 once it does."""
        where = self.meeting.wait()
        if isinstance(where, str):
            return where
        # Slurm gives each rank its own GPU
        return self._run(ranks, time.time(), [], where.gpus if self.slots is not None else None)

    def _run(self, ranks: Ranks, began: float, handles: list[int], gpus: str | None) -> str:
        """Train in a child, which shares the locks: of the warm process where there is one."""
        request = {"task": asdict(self), "ranks": asdict(ranks), "began": began, "gpus": gpus}
        code = None if self.warm is None else fork_child(self.warm, request, [1, 2, *handles])
        if code is None:
            code = self._spawn(request, handles)
        if code not in EXIT_WORDS:
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            raise RuntimeError(f"the trial's process ended with {how}; see the lines above")
        return EXIT_WORDS[code]

    def _spawn(self, request: dict[str, Any], handles: list[int]) -> int:
        """Train in a process of its own with a clean environment; its exit code."""
        command = [sys.executable, "-m", "asiarch.hpc.trial", json.dumps(request), *map(str, handles)]
        if load_frozen(self.run.config).sandbox != "off":
            command = bubblewrap(command, self._writable(), network=request["ranks"]["world"] > 1)
        # held back until the child minds them; bubblewrap, which stands between, never does
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, StopSignal.NUMBERS)
        try:
            child = subprocess.Popen(
                command,
                env=clean_environment(os.environ) | {"PYTHONSAFEPATH": "1"},
                stdin=subprocess.DEVNULL,
                pass_fds=handles,
                start_new_session=True,
            )
        except OSError:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            raise
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            return exit_code(child.wait())
        except BaseException:  # told to stop: a checkpoint first
            os.killpg(child.pid, signal.SIGTERM)
            child.wait()
            raise
        finally:
            with suppress(ProcessLookupError):  # the child, or what it started and left
                os.killpg(child.pid, signal.SIGKILL)

    def _writable(self) -> list[Path]:
        """The folders in which the trial may write: its own, and that of its caches on the node's disk."""
        scratch = Path(os.environ.get("ASIARCH_CACHE") or self.layout.root / "cache")
        scratch.mkdir(parents=True, exist_ok=True)
        return [self.layout.root, scratch]

    def _confine(self, ranks: Ranks) -> None:
        """Put this process under the layers that the configuration asks for."""
        config, writable = load_frozen(self.run.config), self._writable()
        scratch = str(writable[1])
        caches = {"TRITON_CACHE_DIR": f"{scratch}/triton", "TORCHINDUCTOR_CACHE_DIR": f"{scratch}/inductor"}
        os.environ.update(caches, HOME=scratch, TMPDIR=scratch)
        tempfile.tempdir = None  # what was found before the fork may not be writable now
        if config.sandbox == "off":
            return
        if config.sandbox == "required":
            require_layers()
        network, memory_gb = ranks.world > 1, config.trial.memory_gb
        confine_this_process(writable, network=network, memory_gb=memory_gb, file_gb=FILE_GB)

    def train(self, ranks: Ranks, stop: "StopSignal", began: float) -> str:
        """Train in this process, which is confined for good; a failure is recorded, then raised.

        Args:
            began: when the trial began to cost, in seconds since the epoch: its start-up counts from there.
        """
        try:
            self._confine(ranks)
            # imported here: its threads must not come before the layers
            from asiarch.hpc.train_trial import train_trial

            key = TrialKey(self.candidate, self.rung, self.seed)
            train_trial(self.run, key, stop, began, ranks, self.meeting)
        except Exception as error:
            _record_failure(self, ranks, error)
            raise
        return "finished"

    def checkpoint(self) -> DelayedSubmission:
        """For submitit: the same task again; it goes on from the trial's own checkpoint."""
        return DelayedSubmission(self)


def train_in_child(request: dict[str, Any], handles: list[int]) -> int:
    """What the child that trains does; its exit code. `handles` are held for their locks alone."""
    task, ranks = TrialTask(**request["task"]), Ranks(**request["ranks"])
    if ranks.rank == 0:
        _sign(handles[0])
    _use_gpus(request["gpus"])
    try:
        outcome = task.train(ranks, StopSignal(), request["began"])
    except Stopped:
        outcome = "stopped"
    return next(code for code, word in EXIT_WORDS.items() if word == outcome)


class StopSignal:
    """A signal asks the task to stop: at once while it waits, after a checkpoint while it trains.

    SIGTERM is what Slurm sends before it preempts, requeues or ends a job; SIGUSR1 and SIGUSR2 are the warnings that
    sites and `sbatch --signal` use.
    """

    NUMBERS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)

    def __init__(self) -> None:
        self.requested = False
        self.training = False
        for number in self.NUMBERS:
            signal.signal(number, self._on_signal)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self.NUMBERS)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.requested:  # Slurm signals a job's every process, and the task passes it on
            return
        self.requested = True
        if not self.training:
            raise Stopped


def _use_gpus(gpus: str | None) -> None:
    # CUDA reads it when it starts, which is later
    if gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus


def _sign(lock: int) -> None:
    os.ftruncate(lock, 0)
    os.pwrite(lock, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)


def _record_failure(task: TrialTask, ranks: Ranks, error: Exception) -> None:
    from asiarch.hpc.training.process_group import is_lost_rank

    path = task.layout.failure
    if ranks.world > 1 and is_lost_rank(error):
        cause: Cause = "nccl_error" if "NCCL" in str(error) else "rank_lost"
        if _appears(path, PEER_SAYS_S):  # the rank that is gone has said why
            return
    else:
        cause = classify(error, task.run.program(task.candidate))
    record: dict[str, Any] = {
        "cause": cause,
        "detail": one_line(f"{type(error).__name__}: {error}"),
        "rank": ranks.rank,
        "traceback": traceback.format_exc()[-8000:],
    }
    print(f"trial failed: cause={cause} rank={ranks.rank} {record['detail']}", file=sys.stderr, flush=True)
    atomic_write_text(path, json.dumps(record, indent=1) + "\n")


def _appears(path: Path, patience_s: float) -> bool:
    deadline = time.monotonic() + patience_s
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    return path.exists()


def _process_age_s() -> float:
    """Seconds since this process was created (Linux)."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    uptime_s = float(Path("/proc/uptime").read_text().split()[0])
    return uptime_s - ticks / os.sysconf("SC_CLK_TCK")


def one_line(text: str, limit: int = 300) -> str:
    """The text on one line, cut to `limit` characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 3] + "..."


def main() -> None:
    """`python -m asiarch.hpc.trial REQUEST HANDLE...`, started by a task that no warm process serves."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(
        1, signal.SIGKILL
    )  # die with the task, even where it is killed (PR_SET_PDEATHSIG)
    if os.getppid() != parent:
        sys.exit(1)
    sys.exit(train_in_child(json.loads(sys.argv[1]), [int(handle) for handle in sys.argv[2:]]))


if __name__ == "__main__":
    main()
