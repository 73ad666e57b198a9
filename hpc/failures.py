"""Why a trial ended without a result, and what is done about it.

Causes:
    candidate_code   the program raised while it was trained
    diverged         the loss became NaN or infinite, or rose and stayed up
    implausible      the loss is too far below the reference's: a leak until shown otherwise
    too_slow         far fewer tokens a second than the reference at the same rung
    memory_growth    memory in use grows and grows
    out_of_memory    the program asked for more memory than the device, or this process, has
    host_memory      the machine's or the job's memory ran out, and the process was killed
    bad_result       the trial says that it finished, and its result cannot be read
    environment      the machine: a missing file, a damaged data shard
    sandbox          the layers that hold a program could not be put on
    storage          the disk of the campaign's folder is full, over quota or read-only
    import_error     something that a trial needs is not installed where it ran
    gpu_error        CUDA failed, and not for want of memory
    nccl_error       the GPUs of a trial could not talk to each other
    killed           the process is gone and left nothing: killed, a lost machine
    rank_lost        another process of the same trial died or did not answer
    no_progress      no sign of life for longer than the configuration allows
    interrupted      the job was asked to stop, or met its time limit, and goes on from its checkpoint
    preempted        Slurm took the nodes for another job
    node_failure     Slurm lost the node
    cancelled        somebody cancelled the job; tried once more, as an administrator may have done it
    time_limit       the trial was not done in the time that it is given
    training_error   any other exception while training
"""

import errno
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, Literal

from asiarch.models.errors import SandboxError, UserError

Cause = Literal[
    "candidate_code",
    "diverged",
    "implausible",
    "too_slow",
    "memory_growth",
    "out_of_memory",
    "host_memory",
    "bad_result",
    "environment",
    "sandbox",
    "storage",
    "import_error",
    "gpu_error",
    "nccl_error",
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

# resume: again, from the checkpoint. elsewhere: the same, and the node is avoided once it has failed twice.
# repair: the program is at fault. give_up: it would only happen again, or a person has decided
Policy = Literal["resume", "elsewhere", "repair", "give_up"]

POLICIES: Final[dict[Cause, Policy]] = {
    "candidate_code": "repair",
    "diverged": "repair",
    "implausible": "give_up",
    "too_slow": "give_up",
    "memory_growth": "repair",
    "out_of_memory": "repair",
    "host_memory": "repair",
    "bad_result": "resume",
    "environment": "resume",
    "sandbox": "elsewhere",
    "storage": "resume",
    "import_error": "elsewhere",
    "gpu_error": "elsewhere",
    "nccl_error": "elsewhere",
    "killed": "resume",
    "rank_lost": "resume",
    "no_progress": "resume",
    "interrupted": "resume",
    "preempted": "resume",
    "node_failure": "elsewhere",
    "cancelled": "resume",
    "time_limit": "give_up",
    "training_error": "give_up",
}

MENDABLE: Final = frozenset(str(cause) for cause, policy in POLICIES.items() if policy == "repair")
STORAGE_ERRORS: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})

# what a dead process's last lines say of its death, the most telling first
_LAST_WORDS: Final[tuple[tuple[Cause, re.Pattern[str]], ...]] = (
    ("storage", re.compile(r"No space left on device|Disk quota exceeded|Read-only file system")),
    ("out_of_memory", re.compile(r"CUDA out of memory|torch\.OutOfMemoryError")),
    ("host_memory", re.compile(r"oom[-_ ]kill|Out Of Memory|Cannot allocate memory|std::bad_alloc")),
    ("nccl_error", re.compile(r"NCCL (WARN|error)|ncclSystemError|ncclUnhandledCudaError")),
    ("gpu_error", re.compile(r"CUDA error|uncorrectable ECC|CUDA driver")),
    # the job's own srun, while the controller was away
    (
        "interrupted",
        re.compile(r"^srun: error: .*([Cc]ontroller|create step|confirm allocation|allocation lookup)"),
    ),
    ("import_error", re.compile(r"ModuleNotFoundError|ImportError|cannot open shared object file")),
)
_LAST_BYTES: Final = 16_000


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
    if is_out_of_memory(error):
        return "out_of_memory"
    # an index out of bounds: the program's, wherever the asynchronous error surfaced
    if _passes_through(error, program) or "device-side assert" in str(error):
        return "candidate_code"
    if "CUDA error" in str(error):
        return "gpu_error"
    if isinstance(error, SandboxError):
        return "sandbox"
    if is_storage_error(error):
        return "storage"
    if isinstance(error, ImportError):
        return "import_error"
    return "environment" if isinstance(error, (OSError, UserError)) else "training_error"


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return any(words in str(error) for words in ("not enough memory", "can't allocate memory"))


def is_storage_error(error: BaseException) -> bool:
    """Whether an exception says that nothing can be written now; h5py wraps such ones in its own words."""
    if isinstance(error, OSError) and error.errno in STORAGE_ERRORS:
        return True
    return isinstance(error, OSError) and _LAST_WORDS[0][1].search(str(error)) is not None


def last_words(logs: Iterable[Path]) -> tuple[Cause, str] | None:
    """(cause, telling line) of a process that died without a record, from the ends of its logs."""
    for path in sorted(logs):
        try:
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - _LAST_BYTES))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            continue
        for cause, pattern in _LAST_WORDS:
            telling = [line for line in lines if pattern.search(line)]
            if telling:
                return cause, harmless(telling[-1])
    return None


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
        cause, detail = record["cause"], str(record["detail"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    # the process that wrote this ran a program that nobody has read: its words reach terminals and logs
    known: Cause = cause if cause in POLICIES else "training_error"
    return known, harmless(detail)


def harmless(text: str) -> str:
    """At most 300 characters of foreign text, without what would move a terminal's cursor."""
    return "".join(letter if letter.isprintable() else " " for letter in text[:300])
