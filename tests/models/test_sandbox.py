"""The sandbox: what a process that has confined itself can still do, tried from inside."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from asiarch.models import sandbox
from asiarch.models.errors import SandboxError
from asiarch.models.sandbox import (
    Layers,
    bubblewrap,
    clean_environment,
    offered_layers,
    require_layers,
)

CONFINE = """
import os, resource, socket, subprocess, sys, threading
from pathlib import Path
from asiarch.models.sandbox import confine_this_process
inside, outside, port, parent = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
"""
HOLDS_WRITING = offered_layers().landlock > 0
HOLDS_NETWORK = offered_layers().seccomp
# what a confined process tries, and whether a layer of this machine holds it off
ATTEMPTS = {
    "write inside": ("(inside / 'new').write_text('x')", False),
    "rename inside": ("(inside / 'old').rename(inside / 'other')", False),
    "read outside": ("(outside / 'old').read_text()", False),
    "pair of local sockets": ("a, b = socket.socketpair(); a.send(b'x')", False),
    "write to the null device": ("Path('/dev/null').write_text('x')", False),
    "create outside": ("(outside / 'new').write_text('x')", HOLDS_WRITING),
    "change outside": ("open(outside / 'old', 'r+').write('x')", HOLDS_WRITING),
    "empty outside": ("os.truncate(outside / 'old', 0)", offered_layers().landlock >= 3),
    "remove outside": ("(outside / 'old').unlink()", HOLDS_WRITING),
    "move out": ("(inside / 'old').rename(outside / 'moved')", HOLDS_WRITING),
    "link out": ("os.link(inside / 'old', outside / 'linked')", HOLDS_WRITING),
    "create outside, by a child": (
        "subprocess.run([sys.executable, '-c', f'open({str(outside / \"new\")!r}, \"w\")'], check=True)",
        HOLDS_WRITING,
    ),
    "connect": ("socket.create_connection(('127.0.0.1', port), 5)", HOLDS_NETWORK),
    "connect, by a first message": (
        "socket.socket().sendto(b'x', socket.MSG_FASTOPEN, ('127.0.0.1', port))",
        HOLDS_NETWORK,
    ),
    "datagram": ("socket.socket(socket.AF_INET, socket.SOCK_DGRAM)", HOLDS_NETWORK),
    "datagram, IPv6": ("socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)", HOLDS_NETWORK),
    "service of the machine": (
        "socket.socket(socket.AF_UNIX).connect(str(outside / 'service'))",
        HOLDS_NETWORK,
    ),
    "signal outside": ("os.kill(parent, 0)", offered_layers().landlock >= 6),
}


@pytest.fixture
def places(tmp_path: Path) -> Iterator[list[str]]:
    """A folder to write in, one not to, a port and a local service that listen."""
    for name in ("inside", "outside"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "old").write_text("old")
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as service:
        before = Path.cwd()
        os.chdir(tmp_path / "outside")  # a socket's path has 107 bytes
        service.bind("service")
        os.chdir(before)
        service.listen()
        yield [
            str(tmp_path / "inside"),
            str(tmp_path / "outside"),
            str(server.getsockname()[1]),
            str(os.getpid()),
        ]


def run_confined(places: list[str], body: str, confine: str = "confine_this_process([inside])") -> str:
    """What became of `body` in a confined process: "done", or the name and number of its error."""
    code = f"{CONFINE}\n{confine}\ntry:\n    {body}\n    print('done')\n"
    code += "except BaseException as error:\n    print(type(error).__name__, getattr(error, 'errno', ''), error)\n"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *places], capture_output=True, text=True, timeout=60, check=False
    )
    return done.stdout.strip() or f"exit code {done.returncode}: {done.stderr}"


@pytest.mark.parametrize("name", ATTEMPTS)
def test_a_confined_process_is_held_to_its_folder_and_off_the_network(places: list[str], name: str) -> None:
    body, held = ATTEMPTS[name]
    # without the sandbox each of these works: what refuses is the sandbox
    alone = run_confined(places, body, "")
    if name != "connect, by a first message":  # not every kernel offers it to those who may
        assert alone == "done"
    Path(places[0], "old").write_text("old")
    Path(places[1], "old").write_text("old")
    for made in ("new", "moved", "linked"):
        Path(places[1], made).unlink(missing_ok=True)
    found = run_confined(places, body)
    assert (found != "done") == held, found
    if held:
        assert sorted(os.listdir(places[1])) == ["old", "service"]
        assert Path(places[1], "old").read_text() == "old"


def test_ranks_of_several_processes_may_connect(places: list[str]) -> None:
    connect = "socket.create_connection(('127.0.0.1', port), 5)"
    assert run_confined(places, connect, "confine_this_process([inside], network=True)") == "done"
    outside = run_confined(
        places, "(outside / 'new').write_text('x')", "confine_this_process([inside], network=True)"
    )
    assert (outside != "done") == HOLDS_WRITING


def test_memory_file_size_and_core_dumps_have_limits(places: list[str]) -> None:
    confine = "confine_this_process([inside], memory_gb=0.5, file_gb=1 / 1024)"
    assert run_confined(places, "bytearray(2**30)", confine).startswith("MemoryError")
    assert run_confined(places, "bytearray(2**26)", confine) == "done"
    written = run_confined(places, "(inside / 'new').write_bytes(bytes(2**21))", confine)
    assert written.startswith(f"OSError {27}"), written  # EFBIG
    assert Path(places[0], "new").stat().st_size <= 2**20
    cores = "assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)"
    assert run_confined(places, cores, confine) == "done"


def test_threads_that_would_stay_outside_are_refused(places: list[str]) -> None:
    thread = "gate = threading.Event(); threading.Thread(target=gate.wait, daemon=True).start()"
    found = run_confined(places, "confine_this_process([inside])", thread)
    assert found.startswith("SandboxError")
    assert "threads" in found


def test_what_is_required_and_lacking_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for layers, named in (
        (Layers(0, True, False), "Landlock"),
        (Layers(1, False, False), "the network"),
        (Layers(0, False, False), "rlimits"),
    ):
        monkeypatch.setattr(sandbox, "offered_layers", lambda layers=layers: layers)
        with pytest.raises(SandboxError, match=named):
            require_layers()
    for enough in (Layers(1, True, False), Layers(0, False, True)):
        monkeypatch.setattr(sandbox, "offered_layers", lambda layers=enough: layers)
        require_layers()


def test_bubblewrap_is_put_before_the_command_where_it_works(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sandbox, "offered_layers", lambda: Layers(0, False, False))
    assert bubblewrap(["true"], [tmp_path]) == ["true"]
    monkeypatch.setattr(sandbox, "offered_layers", lambda: Layers(0, False, True))
    wrapped = bubblewrap(["true"], [tmp_path])
    assert (wrapped[0], wrapped[-2:]) == ("bwrap", ["--", "true"])
    assert "--unshare-net" in wrapped
    assert ["--bind", str(tmp_path), str(tmp_path)] == wrapped[wrapped.index("--bind") :][:3]
    assert "--unshare-net" not in bubblewrap(["true"], [tmp_path], network=True)


def test_the_environment_is_an_allow_list_without_secrets() -> None:
    kept = {"PATH": "p", "SLURM_JOB_ID": "1", "CUDA_VISIBLE_DEVICES": "0", "LC_ALL": "C", "PYTHONPATH": "x"}
    gone = {
        "AWS_ACCESS_KEY_ID": "k",
        "HF_TOKEN": "t",
        "SLURM_JWT": "j",
        "EDITOR": "vi",
        "OPENAI_API_KEY": "k",
    }
    assert clean_environment(kept | gone) == kept
