"""Checks and trials under bubblewrap, which stands between a task and the process that works for it."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from programs import PROGRAM
from test_trial import has_trained, layout, make_run, start, wait_until

from asiarch.hpc.check import run_check
from asiarch.models.sandbox import offered_layers
from campaigns import environment

pytestmark = pytest.mark.slow

HEAD = """
import sys, time
from pathlib import Path
from asiarch.hpc.warm import WarmProcess
warm = WarmProcess(Path(sys.argv[1]) / "warm.log", writable=Path(sys.argv[1]))
print(warm.address, flush=True)
time.sleep(600)
"""
TASK = """
import sys
from asiarch.hpc.trial import TrialTask
task = TrialTask(sys.argv[1], 0, 0, 0, attempt="0", slots=1, warm=sys.argv[2])
print("outcome:", task(), flush=True)
"""


@pytest.fixture(scope="module", autouse=True)
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """bubblewrap, from Debian's package where the machine lacks it: on PATH for these tests alone."""
    folder = tmp_path_factory.mktemp("bubblewrap")
    if shutil.which("bwrap") is None:
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            pytest.skip("bubblewrap is not installed, and only root can fetch its package")
        for command in (["apt-get", "update", "-qq"], ["apt-get", "download", "-qq", "bubblewrap"]):
            subprocess.run(command, cwd=folder, check=True, capture_output=True)
        subprocess.run(["dpkg", "-x", *folder.glob("*.deb"), folder], check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{folder}/usr/bin", prepend=os.pathsep)
        alone = ["bwrap", "--ro-bind", "/", "/", "--unshare-net", "true"]
        if subprocess.run(alone, capture_output=True, check=False).returncode != 0:
            pytest.skip("this kernel lets bubblewrap make no namespaces")
        offered_layers.cache_clear()
        assert offered_layers().bubblewrap
        yield
    offered_layers.cache_clear()


@pytest.fixture
def used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with a line for each time that bubblewrap is started."""
    lines, real = tmp_path / "used", shutil.which("bwrap")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "bwrap").write_text(f'#!/bin/sh\necho "$$" >> {lines}\nexec {real} "$@"\n')
    (tmp_path / "bin" / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    return lines


def the_bubblewrap_of(process: "subprocess.Popen[str]") -> int:
    """The process id of its only child, which is bubblewrap."""
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert Path(f"/proc/{child}/comm").read_text() == "bwrap\n"
    return int(child)


@pytest.mark.parametrize(
    ("before", "timeout_s", "said"),
    [
        ("while True:\n    pass\n", 1, "still running after 1 s of work"),
        ("x = ()\nfor _ in range(500_000):\n    x = (x,)\nhash(x)\n", 60, "SIGSEGV"),
    ],
    ids=["loop", "crash"],
)
def test_how_a_check_ended_is_told(
    tmp_path: Path, used: Path, before: str, timeout_s: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asiarch.hpc.check.PATIENCE", 100)  # so that the machine's load does not decide
    file = tmp_path / "architecture.py"
    file.write_text(PROGRAM.format(output="self.proj(hidden_states)").replace("class ", f"{before}class ", 1))
    assert said in run_check(file, timeout_s=timeout_s).refusals[0].message
    assert len(used.read_text().split()) == 1


def test_a_signal_reaches_what_trains_and_it_leaves_a_checkpoint(tmp_path: Path) -> None:
    run = make_run(
        tmp_path, ("tokens: 24_576", "tokens: 100_000_000"), ("checkpoint_every: 1s", "checkpoint_every: 1h")
    )
    task = start(run)
    wait_until(lambda: has_trained(run), task)
    # Slurm signals all of a job's processes
    os.kill(the_bubblewrap_of(task), signal.SIGTERM)
    task.send_signal(signal.SIGTERM)
    output, _ = task.communicate(timeout=60)
    assert output.endswith("outcome: stopped\n")
    assert list(layout(run).checkpoint.iterdir())


def test_a_trial_of_the_warm_process_outlives_the_head(tmp_path: Path) -> None:
    run = make_run(tmp_path, ("tokens: 24_576", "tokens: 100_000_000"))
    pipes = {"stdout": subprocess.PIPE, "text": True, "env": environment()}
    head = subprocess.Popen([sys.executable, "-c", HEAD, str(tmp_path)], **pipes)
    try:
        assert head.stdout is not None
        address = Path(head.stdout.readline().strip())
        wait_until(address.exists, head)
        task = subprocess.Popen([sys.executable, "-c", TASK, str(run), str(address)], **pipes)
        wait_until(lambda: has_trained(run), task)
        the_bubblewrap_of(head)
    finally:
        head.kill()
        head.communicate()
    time.sleep(1.0)  # in which it would die with the head
    task.send_signal(signal.SIGTERM)
    output, _ = task.communicate(timeout=60)
    assert "outcome: stopped\n" in output
    assert list(layout(run).checkpoint.iterdir())
