"""The local queue: never more than its slots, in order, and a killed holder frees its slot."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from asiarch.hpc import trial
from asiarch.hpc.slots import gpus_of_slot, local_slot, visible_gpus
from asiarch.hpc.training.ranks import Ranks
from asiarch.models.errors import UserError

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


@pytest.mark.parametrize(
    ("ranks", "gpus", "expected"),
    [
        (1, "0123", ["0", "1", "2", "3", "0"]),
        (2, "0123", ["0,1", "2,3", "0,1"]),
        (2, "567", ["5,6", "7,5", "6,7"]),
        (4, "", [None, None]),
    ],
)
def test_each_slot_has_gpus_of_its_own_while_there_are_enough(
    ranks: int, gpus: str, expected: list[str | None]
) -> None:
    assert [gpus_of_slot(slot, ranks, list(gpus)) for slot in range(len(expected))] == expected


def test_more_ranks_than_gpus_are_said() -> None:
    with pytest.raises(UserError, match=r"local.ranks is 4, and this machine has 2 GPUs"):
        gpus_of_slot(0, 4, ["0", "1"])


def test_gpus_that_were_hidden_stay_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, expected in (("2, GPU-8f", ["2", "GPU-8f"]), ("", []), ("-1", [])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
        assert visible_gpus() == expected


def test_a_trial_trains_on_the_gpus_of_its_slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[int, str] = {}

    def train(task: trial.TrialTask, ranks: Ranks, *_: Any) -> str:
        seen[ranks.rank] = os.environ["CUDA_VISIBLE_DEVICES"]
        if ranks.rank == 0:
            task.meeting.announce(1)
        return "finished"

    def in_this_process(task: trial.TrialTask, request: dict[str, Any], handles: list[int]) -> int:
        return trial.train_in_child(json.loads(json.dumps(request)), handles)

    monkeypatch.setattr(trial.TrialTask, "train", train)
    monkeypatch.setattr(trial.TrialTask, "_spawn", in_this_process)
    monkeypatch.setattr(trial, "StopSignal", object)  # which would listen for the tests' signals too
    task = trial.TrialTask(str(tmp_path), 0, 0, 0, attempt="0", slots=2, warm=None)
    with local_slot(task.run.slots, 2, "a"):
        for rank in range(2):
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
            monkeypatch.setattr(
                Ranks, "from_submitit", classmethod(lambda cls, rank=rank: cls(rank, rank, 2))
            )
            assert task() == "finished"
    assert seen == {0: "6,7", 1: "6,7"}
