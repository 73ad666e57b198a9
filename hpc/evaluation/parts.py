"""The parts of a trial's evaluation, each stored as soon as it is done: what is measured is never measured again.

A part that fails leaves the others as they are. Tried again, a trial whose training is complete does what is missing.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import distributed

from asiarch.hpc.failures import PartFailedError
from asiarch.hpc.training.ranks import Ranks
from asiarch.results.files import atomic_write_text

Numbers = dict[str, Any]  # numbers, and columns of them


class Parts:
    """The parts in one trial's folder, a file each; the folder is made with the first."""

    def __init__(self, folder: Path, ranks: Ranks) -> None:
        self._folder = folder
        self._ranks = ranks
        self._failed: dict[str, Exception] = {}

    def measure(self, name: str, work: Callable[[], Numbers], below: Numbers | None = None) -> Numbers:
        """The numbers of a part: those of the rung below, or stored, or worked out now. Collective.

        With them come `training_s`, 0 where `work` does not say, and `evaluation_s`, the rest of what it took, in
        seconds. Where `work` raises there are none, and `require_all` will raise.
        """
        found = below or self._stored(name)
        if found is not None:
            return found
        began = time.perf_counter()
        try:
            numbers = {"training_s": 0.0} | work()
        except Exception as error:
            if self._ranks.world > 1:
                raise  # the other ranks may be in the middle of it
            self._failed[name] = error
            return {}
        numbers["evaluation_s"] = max(0.0, time.perf_counter() - began - numbers["training_s"])
        if self._ranks.rank == 0:
            self._folder.mkdir(exist_ok=True)
            atomic_write_text(self._path(name), json.dumps(numbers) + "\n")
        return numbers

    def require_all(self) -> None:
        """Raises PartFailedError where any part failed: a score that is missing is no zero."""
        if self._failed:
            raise PartFailedError(self._failed) from next(iter(self._failed.values()))

    def _stored(self, name: str) -> Numbers | None:
        # rank 0 says what is there, since others may see a shared folder a moment later
        found = [self._read(name)] if self._ranks.rank == 0 else [None]
        if self._ranks.world > 1:
            distributed.broadcast_object_list(found, src=0)
        return found[0]

    def _read(self, name: str) -> Numbers | None:
        try:
            numbers: Numbers = json.loads(self._path(name).read_text())
        except FileNotFoundError:
            return None
        return numbers

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"
