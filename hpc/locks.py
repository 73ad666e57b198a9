"""File locks that the kernel lets go of when their holder dies, however it dies."""

import fcntl
import os
import time
from pathlib import Path


def try_lock(handle: int, patience_s: float = 0.0) -> bool:
    """Take an exclusive lock on an open file; False where somebody else holds it all the while.

    A reader that asks `is_locked` holds the file for an instant: `patience_s` outlasts that.
    """
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.05)


def is_locked(path: Path) -> bool:
    """Whether a living process holds the lock on `path`; False where there is no such file."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(handle)
