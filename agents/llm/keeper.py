"""Runs one command for as long as its parent lives, and leaves nothing of it behind: keeper.py PARENT COMMAND...

A server of several processes outlives its starter when that is killed at once, or loses some of its processes when
only one of them is. This small process sees either, and ends all of them: it is the reaper of what they orphan, so
that a process that left the group, or the session, is found as well. The command runs in an empty folder that is
removed at the end, which is also its folder for temporary files. SIGTERM ends the command and then the keeper.
Needs Linux and the standard library alone. Exits with the command's exit code.
"""

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

GRACE_S = 10.0  # for the server to free what lies in shared memory
_DEATH_SIGNAL, _SUBREAPER = 1, 36  # of prctl(2)


def main() -> int:
    parent, command = int(sys.argv[1]), sys.argv[2:]
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    libc = ctypes.CDLL(None)
    libc.prctl(_SUBREAPER, 1)
    with tempfile.TemporaryDirectory(prefix="asiarch-llm-", ignore_cleanup_errors=True) as folder:
        child = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "TMPDIR": folder},
            start_new_session=True,
            # the last resort, where this process too is killed
            preexec_fn=lambda: libc.prctl(_DEATH_SIGNAL, signal.SIGKILL),
        )
        try:
            while child.poll() is None and not asked and os.getppid() == parent:
                time.sleep(0.2)
            if child.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    child.terminate()
                    child.wait(GRACE_S)
        finally:
            _kill_all()
            child.wait()
    return 0 if asked else child.returncode if child.returncode >= 0 else 128 - child.returncode


def _kill_all() -> None:
    """End all processes that descend from this one; what they orphan becomes a child of this one, and ends too."""
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    while pids := children.read_text().split():
        for pid in map(int, pids):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)


if __name__ == "__main__":
    sys.exit(main())
