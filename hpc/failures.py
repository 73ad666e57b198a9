"""Why a trial ended without a result, and whether trying again can help.

Causes:
    candidate_code   the program raised while it was trained
    diverged         the loss became NaN or infinite, or rose and stayed up
    implausible      the loss is too far below the reference's: a leak until shown otherwise
    too_slow         far fewer tokens a second than the reference at the same rung
    memory_growth    memory in use grows and grows
    out_of_memory    the program asked for more memory than there is
    bad_result       the trial says that it finished, and its result cannot be read
    environment      the machine: a full disk, a missing file, a damaged data shard
    killed           the process is gone and left nothing: killed, out of host memory, a lost machine
    rank_lost        another process of the same trial died or did not answer
    no_progress      no sign of life for longer than the configuration allows
    interrupted      the job was asked to stop, or met its time limit, and goes on from its checkpoint
    preempted        Slurm took the nodes for another job
    node_failure     Slurm lost the node
    cancelled        somebody cancelled the job
    time_limit       the trial was not done in the time that it is given
    training_error   any other exception while training
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from asiarch.models.errors import UserError

Cause = Literal[
    "candidate_code",
    "diverged",
    "implausible",
    "too_slow",
    "memory_growth",
    "out_of_memory",
    "bad_result",
    "environment",
    "killed",
    "rank_lost",
    "no_progress",
    "interrupted",
    "preempted",
    "node_failure",
    "cancelled",
    "time_limit",
    "training_error",
]

# what a second try may mend: the rest would only happen again
RETRIED: frozenset[str] = frozenset(
    {"environment", "killed", "rank_lost", "no_progress", "bad_result"}
    | {"interrupted", "preempted", "node_failure"}
)


class Stopping(Exception):
    """A watchdog's verdict on a training; `cause` names it."""

    cause: Cause


class Diverged(Stopping):
    """The training loss is NaN or infinite, or has risen and stays up."""

    cause = "diverged"


class Implausible(Stopping):
    """The loss is too far below the reference's."""

    cause = "implausible"


class TooSlow(Stopping):
    """Far fewer tokens a second than the reference."""

    cause = "too_slow"


class MemoryGrowth(Stopping):
    """Memory in use grows without bound."""

    cause = "memory_growth"


class PartFailedError(Exception):
    """Parts of an evaluation raised; `__cause__` is what the first of them did."""

    def __init__(self, errors: Mapping[str, Exception]) -> None:
        super().__init__("; ".join(f"{name}: {type(e).__name__}: {e}" for name, e in errors.items()))


def classify(error: BaseException, program: Path) -> Cause:
    """The cause behind an exception that ended a trial of the program in the file `program`."""
    if isinstance(error, PartFailedError) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, Stopping):
        return error.cause
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "out_of_memory"
    if "not enough memory" in str(error) or "can't allocate memory" in str(error):
        return "out_of_memory"
    if _passes_through(error, program):
        return "candidate_code"
    if isinstance(error, (OSError, UserError)):
        return "environment"
    return "training_error"


def _passes_through(error: BaseException, program: Path) -> bool:
    trace = error.__traceback__
    while trace is not None:
        if Path(trace.tb_frame.f_code.co_filename).name == program.name:
            return True
        trace = trace.tb_next
    return False


def read_failure(path: Path) -> tuple[Cause, str] | None:
    """(cause, detail) of a trial's failure record; None where there is none that can be read."""
    try:
        record = json.loads(path.read_bytes()[:100_000])
        cause, detail = record["cause"], str(record["detail"])[:300]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    # the process that wrote this ran a program that nobody has read: its words reach terminals and logs
    known: Cause = cause if cause in get_args(Cause) else "training_error"
    return known, "".join(letter if letter.isprintable() else " " for letter in detail)
