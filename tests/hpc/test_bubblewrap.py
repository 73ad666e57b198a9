"""Checks and trials under bubblewrap, which stands between a task and the process that works for it."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from programs import PROGRAM
from test_trial import has_trained, layout, make_run, start, wait_until

from asiarch.hpc.check import run_check
from asiarch.models.sandbox import offered_layers

pytestmark = pytest.mark.slow


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
        offered_layers.cache_clear()
        if not offered_layers().bubblewrap:
            pytest.skip("this kernel lets bubblewrap make no namespaces")
        yield
    offered_layers.cache_clear()


@pytest.mark.parametrize(
    ("before", "said"),
    [
        ("while True:\n    pass\n", "still running after 1 s"),
        ("x = ()\nfor _ in range(500_000):\n    x = (x,)\nhash(x)\n", "SIGSEGV"),
    ],
    ids=["loop", "crash"],
)
def test_how_a_check_ended_is_told(tmp_path: Path, before: str, said: str) -> None:
    file = tmp_path / "architecture.py"
    file.write_text(PROGRAM.format(output="self.proj(hidden_states)").replace("class ", f"{before}class ", 1))
    message = run_check(file, timeout_s=1).refusals[0].message
    assert said in message


def test_a_signal_reaches_what_trains_and_it_leaves_a_checkpoint(tmp_path: Path) -> None:
    run = make_run(
        tmp_path, ("tokens: 24_576", "tokens: 100_000_000"), ("checkpoint_every: 1s", "checkpoint_every: 1h")
    )
    task = start(run)
    wait_until(lambda: has_trained(run), task)
    children = Path(f"/proc/{task.pid}/task/{task.pid}/children").read_text().split()
    assert [Path(f"/proc/{child}/comm").read_text() for child in children] == ["bwrap\n"]
    # Slurm signals all of a job's processes
    os.kill(int(children[0]), signal.SIGTERM)
    task.send_signal(signal.SIGTERM)
    output, _ = task.communicate(timeout=60)
    assert output.endswith("outcome: stopped\n")
    assert list(layout(run).checkpoint.iterdir())
