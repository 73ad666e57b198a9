"""The local queue: never more than its slots, in order, and a killed holder frees its slot."""

import subprocess
import sys
import time
from pathlib import Path

SCRIPT = """
import sys, time
from pathlib import Path
from asiarch.hpc.slots import local_slot
folder, ticket, seconds = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
with local_slot(folder, 2, ticket) as slot:
    with (folder / "log").open("a") as log:
        log.write(f"+{ticket}\\n"); log.flush()
        time.sleep(seconds)
        log.write(f"-{ticket}\\n")
"""


def start(folder: Path, ticket: str, seconds: float) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder), ticket, str(seconds)])


def wait_for(folder: Path, *lines: str) -> None:
    deadline = time.monotonic() + 30
    while not set(lines) <= set(logged(folder)):
        assert time.monotonic() < deadline, logged(folder)
        time.sleep(0.02)


def logged(folder: Path) -> list[str]:
    path = folder / "log"
    return path.read_text().split() if path.exists() else []


def test_two_at_a_time_in_the_order_of_their_tickets(tmp_path: Path) -> None:
    first = [start(tmp_path, "a", 60), start(tmp_path, "b", 60)]
    wait_for(tmp_path, "+a", "+b")
    waiting = [start(tmp_path, ticket, 0.1) for ticket in ("e", "d", "c")]
    deadline = time.monotonic() + 30
    while len(list((tmp_path / "waiting").iterdir())) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    first[0].kill()  # a slot is freed by its holder's death alone
    for process in waiting:
        assert process.wait(timeout=30) == 0
    first[1].kill()
    for process in first:
        process.wait()
    starts = [line for line in logged(tmp_path) if line.startswith("+")]
    assert starts[2:] == ["+c", "+d", "+e"]


def test_a_dead_task_in_the_queue_holds_nobody_up(tmp_path: Path) -> None:
    (tmp_path / "waiting").mkdir()
    (tmp_path / "waiting" / "a-dead").touch()
    assert start(tmp_path, "z", 0).wait(timeout=30) == 0
