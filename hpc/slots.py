"""The queue of one machine: a fixed number of trials train at a time, the others wait in order.

submitit's local executor starts whatever it is given at once. So each task waits here, in its own process,
until one of the slots is free and nobody before it waits. All of it is file locks, which die with their
holder: a killed task frees its place, and tasks of a dead head go on.
"""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from asiarch.hpc.locks import is_locked, try_lock
from asiarch.models.errors import UserError

POLL_S = 0.1


@dataclass(frozen=True)
class Slot:
    """A slot that is held: its number, and the open file that holds it (a process that inherits it holds on)."""

    number: int
    handle: int


@contextmanager
def local_slot(folder: Path, slots: int, ticket: str) -> Iterator[Slot]:
    """Wait for a slot and hold it.

    Args:
        folder: where the locks of this campaign lie.
        slots: how many tasks may run at a time.
        ticket: this task's place in the queue; the lowest living ticket is served first.
    """
    waiting = folder / "waiting"
    waiting.mkdir(parents=True, exist_ok=True)
    own_ticket = _hold(waiting / ticket)
    try:
        slot = _next_slot(folder, slots, waiting, ticket)
    finally:
        (waiting / ticket).unlink(missing_ok=True)
        os.close(own_ticket)
    try:
        yield slot
    finally:
        os.close(slot.handle)


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES would name them. CUDA itself is not asked."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        return [str(number) for number, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))]
    return [name.strip() for name in given.split(",") if name.strip() not in ("", "-1")]


def gpus_of_slot(slot: int, ranks: int, gpus: Sequence[str]) -> str | None:
    """CUDA_VISIBLE_DEVICES of the trial in a slot, one GPU a rank, in turn; None where there are no GPUs.

    Raises:
        UserError: there are fewer GPUs than ranks.
    """
    if not gpus:
        return None
    if len(gpus) < ranks:
        raise UserError(f"local.ranks is {ranks}, and this machine has {len(gpus)} GPUs: each rank needs one")
    return ",".join(gpus[(slot * ranks + rank) % len(gpus)] for rank in range(ranks))


def _next_slot(folder: Path, slots: int, waiting: Path, ticket: str) -> Slot:
    while True:
        if not _someone_before(waiting, ticket):
            for slot in range(slots):
                handle = _open(folder / f"slot-{slot}")
                if try_lock(handle):
                    return Slot(slot, handle)
                os.close(handle)
        time.sleep(POLL_S)


def _someone_before(waiting: Path, ticket: str) -> bool:
    earlier = sorted(name for name in os.listdir(waiting) if name < ticket)
    return any(is_locked(waiting / name) for name in earlier)


def _hold(path: Path) -> int:
    handle = _open(path)
    try_lock(handle, patience_s=1.0)
    return handle


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
