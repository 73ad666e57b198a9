"""What Slurm says of our jobs: one call for all, ever less often while nothing changes.

squeue knows what waits and runs, and what ended in the last minutes; sacct is asked for jobs that squeue no longer
has, and may lag behind it by seconds, or not be there at all. A job that neither knows is unknown, not done.
"""

import os
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

# the words of squeue(1), JOB STATE CODES, for jobs that are over; whatever is no such word is not over
ENDED: Final = frozenset(
    {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL"}
    | {"OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT"}
)
SHORTEST_S: Final = 1.0
LONGEST_S: Final = 60.0
SLOWER: Final = 1.5
LOST_S: Final = 600.0  # unknown for so long while Slurm answers: the job is gone
CALL_TIMEOUT_S: Final = 60.0

Call = Callable[[Sequence[str]], str | None]


@dataclass(frozen=True)
class JobState:
    """One job as last seen: Slurm's word for its state, its reason, node and exit code (empty: not told).

    since: when it was first seen in this state, in seconds since the epoch; states that differ in it alone are equal.
    """

    word: str
    reason: str
    node: str
    exit_code: str
    since: float = field(compare=False)

    @property
    def ended(self) -> bool:
        return self.word in ENDED


class SlurmStates:
    """The states of the jobs that are watched.

    Args:
        call: runs a command and gives its output, None where it failed.
    """

    def __init__(self, call: Call | None = None) -> None:
        self._call = call or run_command
        self._states: dict[str, JobState | None] = {}
        self._open: set[str] = set()  # those of them that have not ended, as far as is known
        self._last_known: dict[str, float] = {}
        self._interval_s = SHORTEST_S
        self._next_at = 0.0

    def watch(self, jobs: Iterable[str]) -> None:
        """Ask for these jobs too (ids as submitit gives them: 12, or 12_3 of an array)."""
        for job in jobs:
            if job not in self._states:
                self._states[job] = None
                self._open.add(job)
            self._last_known[job] = time.time()
        self._interval_s, self._next_at = SHORTEST_S, 0.0

    def forget(self, job: str) -> None:
        """The job needs no more asking."""
        self._states.pop(job, None)
        self._open.discard(job)
        self._last_known.pop(job, None)

    def of(self, job: str) -> JobState | None:
        """The job's state as last seen; None where nobody knows it."""
        if time.monotonic() >= self._next_at:
            self._refresh()
        return self._states.get(job)

    def lost(self, job: str) -> bool:
        """Whether Slurm has answered for long without knowing the job."""
        return self._states.get(job) is None and time.time() - self._last_known.get(job, 0.0) > LOST_S

    def _refresh(self) -> None:
        found = self._ask()
        changed = False
        for job, seen in (found or {}).items():
            before = self._states[job]
            if seen != before:
                self._states[job] = (
                    seen if before is None or before.word != seen.word else replace(seen, since=before.since)
                )
                changed = True
                if seen.ended:
                    self._open.discard(job)
            self._last_known[job] = time.time()
        if found is None:
            # nobody answers: that says nothing about the jobs
            self._last_known |= dict.fromkeys(self._open, time.time())
        self._interval_s = SHORTEST_S if changed else min(LONGEST_S, self._interval_s * SLOWER)
        self._next_at = time.monotonic() + self._interval_s

    def _ask(self) -> dict[str, JobState] | None:
        """The states of watched jobs that have not ended, as far as somebody knows; None where squeue is silent."""
        wanted = self._open
        if not wanted:
            return {}
        queue = self._call(
            [
                "squeue",
                f"--user={os.getuid()}",
                "--array",
                "--noheader",
                "--states=all",
                "--format=%i|%T|%r|%N",
            ]
        )
        if queue is None:
            return None
        found = {
            job: _state(word, reason, node, "")
            for job, word, reason, node in _rows(queue, 4)
            if job in wanted
        }
        if missing := sorted(wanted - found.keys()):
            accounting = self._call(
                [
                    *("sacct", "--allocations", "--noheader", "--parsable2", f"--jobs={','.join(missing)}"),
                    "--format=JobID,State,ExitCode,NodeList",
                ]
            )
            for job, word, code, node in _rows(accounting or "", 4):
                if job in missing:
                    # "CANCELLED by 1000" names who it was
                    found[job] = _state(word.split(" ")[0], "", node, code)
        return found


def _state(word: str, reason: str, node: str, exit_code: str) -> JobState:
    return JobState(word, "" if reason == "None" else reason, node, exit_code, time.time())


def _rows(text: str, columns: int) -> Iterable[list[str]]:
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) == columns:
            yield cells


@dataclass(frozen=True)
class PendingJob:
    """A job that waits: why, and when Slurm expects to start it (its local time; empty where it does not say)."""

    job: str
    reason: str
    expected_start: str


def pending_jobs(prefix: str, call: Call | None = None) -> list[PendingJob]:
    """This user's waiting jobs whose names start with `prefix`; none where squeue does not answer."""
    command = ["squeue", f"--user={os.getuid()}", "--array", "--noheader", "--states=PENDING"]
    rows = (call or run_command)([*command, "--format=%i|%j|%r|%S"]) or ""
    return [
        PendingJob(job, reason, "" if start == "N/A" else start)
        for job, name, reason, start in _rows(rows, 4)
        if name.startswith(prefix)
    ]


def jobs_by_name(prefix: str, call: Call | None = None) -> dict[str, list[str]] | None:
    """The ids of all jobs of this user whose name starts with `prefix`, by name; None where squeue does not answer.

    What squeue no longer has is looked for in accounting, over the last month.
    """
    ask = call or run_command
    queue = ask(
        ["squeue", f"--user={os.getuid()}", "--array", "--noheader", "--states=all", "--format=%i|%j"]
    )
    if queue is None:
        return None
    accounting = ask(
        [
            *("sacct", "--allocations", "--noheader", "--parsable2", f"--user={os.getuid()}"),
            *("--starttime=now-30days", "--format=JobID,JobName"),
        ]
    )
    found: dict[str, list[str]] = {}
    for text in (queue, accounting or ""):
        for job, name in _rows(text, 2):
            if name.startswith(prefix) and job not in found.setdefault(name, []):
                found[name].append(job)
    return found


def run_command(command: Sequence[str]) -> str | None:
    """The output of a command; None where it failed, is missing or takes too long."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=CALL_TIMEOUT_S,
            check=False,
            env=command_environment(),
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def command_environment() -> dict[str, str]:
    """Ours, without what would have Slurm's commands leave out jobs or write times in a form of the user's own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SQUEUE_", "SACCT_"))}
    return kept | {"SLURM_TIME_FORMAT": "standard"}
