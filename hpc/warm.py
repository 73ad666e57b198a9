"""A process that has imported what a trial needs, and forks a child for each trial of this machine.

Importing PyTorch and DeepSpeed costs seconds of a small trial's minute; a fork costs milliseconds. A task that
holds its slot asks here for a child, and waits for its end. Each trial stays a process of its own, with its
own memory, threads and death; the parent of all never runs a candidate's code. Where nothing listens, a task
imports and trains by itself: the warm process saves time, and nothing depends on it.
"""

import contextlib
import gc
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asiarch.models.sandbox import bubblewrap, clean_environment

MAX_REQUEST_BYTES = 65536
MAX_HANDLES = 8
RECEIVE_S = 5.0

Work = Callable[[dict[str, Any], list[int]], int]


class WarmProcess:
    """The head's side: starts the process, and lets it end with its last child once the head is gone."""

    def __init__(self, log: Path, writable: Path | None = None, network: bool = True) -> None:
        """`writable`: the folder that it may write in, for all of its children; None for no sandbox."""
        folder = tempfile.mkdtemp(prefix="asiarch-warm-")  # short: a socket's path has 107 bytes
        self.address = f"{folder}/socket"
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "asiarch.hpc.warm", self.address]
        if writable is not None:
            folders = [writable, Path(folder)]
            command = bubblewrap(command, folders, network=network, outlives_parent=True)
        with log.open("ab") as output:
            # its standard input stays open as long as the head lives
            self._process = subprocess.Popen(
                command,
                env=clean_environment(os.environ) | {"HOME": folder, "TMPDIR": folder, "PYTHONSAFEPATH": "1"},
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def leave(self) -> None:
        """Let it end when its last child has ended."""
        assert self._process.stdin is not None
        self._process.stdin.close()


def fork_child(address: str, request: dict[str, Any], handles: Sequence[int]) -> int | None:
    """Have `request` worked on by a child of the warm process; waits for the child's end.

    Args:
        address: the warm process's socket.
        request: what the child is to do, as JSON.
        handles: open files that the child gets; the first two become its standard output and error.

    Returns:
        The exit code, negative for a signal as in `subprocess`; None where no warm process listens.

    Raises:
        ChildLost: the warm process ended before it could tell. The child may go on without it.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        try:
            connection.connect(address)
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        try:
            _send(connection, request, handles)
            answer = connection.recv(MAX_REQUEST_BYTES)
        except ConnectionError:
            answer = b""
    if not answer:
        raise ChildLost("the warm process ended while the trial ran")
    return int(json.loads(answer)["code"])


class ChildLost(RuntimeError):
    """Nobody can say how the child ended."""


@dataclass(frozen=True)
class _Child:
    pid: int
    connection: socket.socket


def serve(address: str, work: Work) -> None:
    """Fork a child for each request until standard input ends and no child is left."""
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener,
        selectors.DefaultSelector() as selector,
    ):
        listener.bind(address)
        listener.listen(64)
        _import_all()
        selector.register(listener, selectors.EVENT_READ, "request")
        selector.register(0, selectors.EVENT_READ, "head")
        head_lives, children = True, 0
        while head_lives or children:
            for key, _ in selector.select():
                match key.data:
                    case "head":
                        selector.unregister(0)
                        head_lives = False
                    case "request":
                        children += _take_request(listener, selector, work)
                    case ("asker", pid):
                        # the task that asked is gone: its trial writes a checkpoint and ends
                        selector.unregister(key.fileobj)
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGTERM)
                    case _Child() as child:
                        _report_end(child, int(key.fd), selector)
                        children -= 1


def _import_all() -> None:
    # asked through NVML, so that no CUDA context exists before a fork
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"

    import asiarch.hpc.train_trial  # noqa: F401

    gc.collect()
    gc.freeze()  # a collection in a child need not copy the pages of all that was imported


def _take_request(listener: socket.socket, selector: selectors.BaseSelector, work: Work) -> int:
    """Accept one connection and fork its child; the number of children that were made."""
    connection, _ = listener.accept()
    connection.settimeout(RECEIVE_S)
    try:
        request, handles = _receive(connection)
    except (OSError, ValueError) as error:
        print(f"bad request: {error}", file=sys.stderr, flush=True)
        connection.close()
        return 0
    pid = os.fork()
    if pid == 0:
        _run_child(request, handles, work)
    for handle in handles:
        os.close(handle)
    selector.register(connection, selectors.EVENT_READ, ("asker", pid))
    selector.register(os.pidfd_open(pid), selectors.EVENT_READ, _Child(pid, connection))
    return 1


def _report_end(child: _Child, handle: int, selector: selectors.BaseSelector) -> None:
    selector.unregister(handle)
    os.close(handle)
    _, status = os.waitpid(child.pid, 0)
    with contextlib.suppress(ProcessLookupError):  # what it started, and left
        os.killpg(child.pid, signal.SIGKILL)
    with contextlib.suppress(KeyError):  # the asker hung up before
        selector.unregister(child.connection)
    with contextlib.suppress(OSError):
        child.connection.send(json.dumps({"code": os.waitstatus_to_exitcode(status)}).encode())
    child.connection.close()


def _run_child(request: dict[str, Any], handles: list[int], work: Work) -> None:
    """The child's whole life; never returns."""
    code = 1
    try:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(handles[0], 1)
        os.dup2(handles[1], 2)
        kept = set(handles[2:]) | {0, 1, 2}
        for name in os.listdir("/proc/self/fd"):
            if int(name) not in kept:
                with contextlib.suppress(OSError):
                    os.close(int(name))
        code = work(request, handles[2:])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _send(connection: socket.socket, request: dict[str, Any], handles: Sequence[int]) -> None:
    socket.send_fds(connection, [json.dumps(request).encode()], list(handles))


def _receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    text, handles, _, _ = socket.recv_fds(connection, MAX_REQUEST_BYTES, MAX_HANDLES)
    try:
        if len(handles) < 2:
            raise ValueError("no output files came with it")
        return json.loads(text), handles
    except ValueError:
        for handle in handles:
            os.close(handle)
        raise


def main() -> None:
    """`python -m asiarch.hpc.warm SOCKET`, started by the head."""
    from asiarch.hpc.trial import train_in_child

    address = sys.argv[1]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        serve(address, train_in_child)
    finally:
        shutil.rmtree(Path(address).parent, ignore_errors=True)


if __name__ == "__main__":
    main()
