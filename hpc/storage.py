"""A disk that is full, over quota or read-only: nothing of a campaign is lost if all wait until it can be written."""

import os
import time
from collections.abc import Callable
from pathlib import Path

PROBE_BYTES = 1 << 20
FIRST_WAIT_S = 5.0
LONGEST_WAIT_S = 60.0


def require_storage(folder: Path) -> None:
    """Write and remove a small file.

    Raises:
        OSError: that failed.
    """
    probe = folder / f".storage-{os.getpid()}"
    try:
        with probe.open("wb") as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    finally:
        probe.unlink(missing_ok=True)


def wait_for_storage(folder: Path, say: Callable[[str], None]) -> None:
    """Return once the folder can be written, looking ever less often; each failed look is said."""
    wait_s = FIRST_WAIT_S
    while True:
        try:
            require_storage(folder)
        except OSError as error:
            say(
                f"waiting for the disk: {folder}: {os.strerror(error.errno or 0)}; next look in {wait_s:.0f} s"
            )
            time.sleep(wait_s)
            wait_s = min(LONGEST_WAIT_S, 2 * wait_s)
        else:
            return
