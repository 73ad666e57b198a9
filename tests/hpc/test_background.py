"""Work beside the head: begun once, kept until it is forgotten, never waited for."""

import subprocess
import sys
import threading

import pytest

from asiarch.hpc.background import Background


def finished(background: Background, key: str) -> object:
    while (found := background.take(key)) is None:
        pass
    return found


def test_work_is_begun_once_and_kept_until_it_is_forgotten() -> None:
    background, begun = Background(2), []

    def work(name: str) -> str:
        begun.append(name)
        return name

    assert background.take("a") is None
    for _ in range(3):
        background.begin("a", lambda: work("a"))
    assert finished(background, "a") == finished(background, "a") == "a"
    background.begin("a", lambda: work("again"))
    assert begun == ["a"]
    background.forget("a")
    assert not background.has("a")
    background.begin("a", lambda: work("again"))
    assert finished(background, "a") == "again"


def test_no_more_than_the_workers_work_at_a_time_and_others_in_their_order() -> None:
    background, order, gate = Background(1), [], threading.Event()

    def work(name: str) -> str:
        gate.wait()
        order.append(name)
        return name

    for name in "abc":
        background.begin(name, lambda name=name: work(name))  # type: ignore[misc]
    assert background.take("a") is None
    gate.set()
    assert [finished(background, name) for name in "cab"] == ["c", "a", "b"]
    assert order == ["a", "b", "c"]


def test_what_fails_is_raised_once_and_can_be_begun_again() -> None:
    background = Background(1)
    background.begin("a", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        finished(background, "a")
    background.begin("a", lambda: "mended")
    assert finished(background, "a") == "mended"


def test_a_head_that_ends_waits_for_no_answer() -> None:
    script = (
        "import time; from asiarch.hpc.background import Background\n"
        "Background(1).begin('a', lambda: time.sleep(600)); time.sleep(0.1); print('gone')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "gone\n")
