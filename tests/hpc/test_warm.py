"""The warm process: trials as its children give what they give alone, and do not feel each other's end."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from asiarch.hpc.warm import ChildLost, WarmProcess, fork_child
from campaigns import numbers, run_to_the_end, write_campaign

# a server whose children do as the request says, in place of training
SERVER = """
import os, sys, time
import asiarch.hpc.warm as warm
def work(request, handles):
    print(request["say"], flush=True)
    if request.get("forever"):
        time.sleep(600)
    if request.get("abort"):
        os.abort()
    if request.get("raise"):
        raise ValueError("from the child")
    return request.get("code", 0)
warm._import_all = lambda: None
warm.serve(sys.argv[1], work)
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen([sys.executable, "-c", SERVER, str(tmp_path / "s")], stdin=subprocess.PIPE)
    wait_until((tmp_path / "s").exists)
    time.sleep(0.05)  # between bind and listen
    yield process
    process.kill()
    process.wait()
    assert process.stdin is not None
    process.stdin.close()


class Asker(threading.Thread):
    """Asks for one child; its output goes to a file."""

    def __init__(self, folder: Path, name: str, **request: object) -> None:
        super().__init__()
        self.output = folder / f"{name}.log"
        self._address = str(folder / "s")
        self._request = {"say": name, **request}
        self.answer: int | Exception | None = None
        self.start()

    def run(self) -> None:
        with self.output.open("wb") as output:
            try:
                self.answer = fork_child(self._address, self._request, [output.fileno(), output.fileno()])
            except ChildLost as error:
                self.answer = error

    def said(self) -> str:
        return self.output.read_text() if self.output.exists() else ""


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_exit_codes_signals_and_exceptions_come_back_with_the_output(
    server: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    cases: list[tuple[dict[str, object], int]] = [
        ({}, 0),
        ({"code": 75}, 75),
        ({"abort": True}, -signal.SIGABRT),
        ({"raise": True}, 1),
    ]
    askers = [Asker(tmp_path, str(i), **request) for i, (request, _) in enumerate(cases)]
    for asker, (_, expected) in zip(askers, cases, strict=True):
        asker.join(timeout=30)
        assert asker.answer == expected
        assert asker.said().startswith(asker.output.stem)
    assert "ValueError: from the child" in askers[3].said()


def test_a_child_that_dies_leaves_its_neighbour_and_the_server_alone(
    server: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    neighbour = Asker(tmp_path, "neighbour", forever=True)
    wait_until(neighbour.said)
    for name in ("first", "second"):
        asker = Asker(tmp_path, name, abort=True)
        asker.join(timeout=30)
        assert asker.answer == -signal.SIGABRT
    assert neighbour.is_alive()
    assert server.poll() is None
    server.kill()  # the asker learns that nobody can tell any more
    neighbour.join(timeout=30)
    assert isinstance(neighbour.answer, ChildLost)
    subprocess.run(["pkill", "-KILL", "-f", str(tmp_path / "s")], check=False)


def test_a_child_is_asked_to_stop_when_its_asker_is_gone(
    server: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    ask = "import sys; from asiarch.hpc.warm import fork_child\n"
    ask += "fork_child(sys.argv[1], {'say': 'hello', 'forever': True}, [1, 2])"
    asker = subprocess.Popen([sys.executable, "-c", ask, str(tmp_path / "s")], stdout=subprocess.PIPE)
    assert asker.stdout is not None
    assert asker.stdout.readline() == b"hello\n"
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children")
    assert children.read_text().split()
    asker.kill()
    asker.wait()
    wait_until(lambda: not children.read_text().split())
    asker.stdout.close()


def test_it_ends_with_its_last_child_once_the_head_is_gone(
    server: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    child = Asker(tmp_path, "child", forever=True)
    wait_until(child.said)
    assert server.stdin is not None
    server.stdin.close()
    time.sleep(0.3)
    assert server.poll() is None
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGKILL)
    assert server.wait(timeout=30) == 0
    child.join(timeout=30)
    assert child.answer == -signal.SIGKILL


def test_where_nobody_listens_the_answer_is_none(tmp_path: Path) -> None:
    assert fork_child(str(tmp_path / "nobody"), {}, [1, 2]) is None


def test_a_malformed_request_harms_nobody(server: "subprocess.Popen[bytes]", tmp_path: Path) -> None:
    with pytest.raises(ChildLost):
        fork_child(str(tmp_path / "s"), {"say": "no output files"}, [])
    asker = Asker(tmp_path, "next")
    asker.join(timeout=30)
    assert asker.answer == 0


@pytest.mark.slow
def test_a_campaign_without_its_warm_process_finds_the_same_numbers(tmp_path: Path) -> None:
    config = write_campaign(tmp_path)
    run_to_the_end(config, tmp_path / "warm")
    cold = subprocess.Popen(
        [sys.executable, "-c", COLD_HEAD, "run", str(config), "--run", str(tmp_path / "cold")],
        stdout=subprocess.DEVNULL,
    )
    assert cold.wait(timeout=600) == 0
    assert numbers(tmp_path / "cold") == numbers(tmp_path / "warm")


# a head whose warm process is killed at once: every task finds nobody, and trains by itself
COLD_HEAD = """
import asiarch.hpc.warm as warm
import os, signal
start = warm.WarmProcess.__init__
def killed(self, *arguments, **options):
    start(self, *arguments, **options)
    os.kill(self.pid, signal.SIGKILL)
warm.WarmProcess.__init__ = killed
from asiarch.hpc.cli.main import main
main()
"""


def test_the_real_one_starts_and_leaves_nothing_behind(tmp_path: Path) -> None:
    process = WarmProcess(tmp_path / "log")
    wait_until(Path(process.address).exists)
    process.leave()
    wait_until(lambda: not Path(process.address).parent.exists())
