"""The fault matrix: whatever happens to a campaign's jobs, daemons and files, its results stay the same.

Each fault meets a campaign on a real Slurm whose undisturbed twin ran without; candidates, programs, losses and ranking
must be equal, number for number.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from cluster import (
    Cluster,
    assert_nothing_trained_twice,
    events,
    start_head,
    step,
    training,
    wait_for_exit,
    wait_until,
)

from campaigns import numbers

pytestmark = pytest.mark.slow


def requeue_a_trial(cluster: Cluster, run: Path, head: int) -> None:
    cluster.run("scontrol", "requeue", training(cluster, run)[0])


def preempt_trials(cluster: Cluster, run: Path, head: int) -> None:
    training(cluster, run)
    cluster.run("sbatch", "-p", "high", "-N4", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 5")
    wait_until(lambda: any(name == "wrap" for name, _ in cluster.running().values()))


def lose_a_node(cluster: Cluster, run: Path, head: int) -> None:
    node = training(cluster, run)[2]
    cluster.script("lose-node", node)
    wait_until(lambda: node not in {where for _, where in cluster.running().values()})
    cluster.script("start-node", node)


def lose_the_controller(cluster: Cluster, run: Path, head: int) -> None:
    training(cluster, run)
    cluster.script("stop-daemon", "slurmctld")
    time.sleep(60)
    cluster.script("start-daemon", "slurmctld")


def lose_accounting(cluster: Cluster, run: Path, head: int) -> None:
    cluster.script("stop-daemon", "slurmdbd")
    training(cluster, run)


def refuse_submissions(cluster: Cluster, run: Path, head: int) -> None:
    cluster.run("sacctmgr", "-i", "modify", "user", "root", "set", "MaxSubmitJobs=1")
    try:
        wait_until(lambda: events(run)["submission_refused"])
    finally:
        cluster.run("sacctmgr", "-i", "modify", "user", "root", "set", "MaxSubmitJobs=-1")


def cancel_a_task(cluster: Cluster, run: Path, head: int) -> None:
    cluster.run("scancel", training(cluster, run)[0])


def kill_a_trial(cluster: Cluster, run: Path, head: int) -> None:
    training(cluster, run)
    progress = max(run.glob("candidates/*/trials/*/progress.json"), key=step)
    os.kill(json.loads(progress.read_text())["pid"], signal.SIGKILL)


def damage_a_result(run: Path, damage: Callable[[Path], None], cluster: Cluster, head: int) -> None:
    """Before the head can read it."""
    training(cluster, run)
    os.kill(head, signal.SIGSTOP)
    before = set(run.glob("candidates/*/trials/*/result.h5"))
    wait_until(lambda: set(run.glob("candidates/*/trials/*/result.h5")) - before)
    damage((set(run.glob("candidates/*/trials/*/result.h5")) - before).pop())
    os.kill(head, signal.SIGCONT)


def truncate_a_result(cluster: Cluster, run: Path, head: int) -> None:
    damage_a_result(run, lambda path: os.truncate(path, path.stat().st_size // 2), cluster, head)


def put_garbage_for_a_result(cluster: Cluster, run: Path, head: int) -> None:
    damage_a_result(run, lambda path: path.write_bytes(os.urandom(10_000)) and None, cluster, head)


def hang_past_the_time_limit(cluster: Cluster, run: Path, head: int) -> None:
    job = training(cluster, run)[0]
    cluster.run("scontrol", "update", f"JobId={job}", "TimeLimit=1")
    for path in run.glob("candidates/*/trials/*/progress.json"):
        with suppress(ProcessLookupError):
            os.kill(json.loads(path.read_text())["pid"], signal.SIGSTOP)
    wait_until(lambda: events(run)["trial_interrupted"])
    for path in run.glob("candidates/*/trials/*/progress.json"):
        with suppress(ProcessLookupError):
            os.kill(json.loads(path.read_text())["pid"], signal.SIGCONT)


def fill_the_disk(cluster: Cluster, run: Path, head: int) -> None:
    training(cluster, run)
    filler = run / "filler"
    handle = os.open(filler, os.O_CREAT | os.O_WRONLY)
    with suppress(OSError):
        while True:
            os.write(handle, bytes(1 << 12))
    os.close(handle)
    wait_until(lambda: "waiting for the disk" in (run.parent / "head.log").read_text())
    time.sleep(10)
    filler.unlink()


def make_the_results_read_only(cluster: Cluster, run: Path, head: int) -> None:
    training(cluster, run)
    results = str(run / "candidates")
    subprocess.run(["mount", "--bind", results, results], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", results], check=True)
    try:
        wait_until(lambda: "waiting for the disk" in (run.parent / "head.log").read_text())
        time.sleep(5)
    finally:
        subprocess.run(["umount", "--lazy", results], check=True)


FAULTS = [
    requeue_a_trial,
    cancel_a_task,
    preempt_trials,
    lose_a_node,
    lose_the_controller,
    lose_accounting,
    refuse_submissions,
    kill_a_trial,
    truncate_a_result,
    put_garbage_for_a_result,
    hang_past_the_time_limit,
    fill_the_disk,
    make_the_results_read_only,
]
# a minute and more each, or near another one: `make test-faults` has them, `make test` has not
LONG = {lose_the_controller, refuse_submissions, put_garbage_for_a_result, hang_past_the_time_limit}
LONG |= {cancel_a_task, lose_accounting, truncate_a_result, fill_the_disk, preempt_trials}
CASES = [
    pytest.param(fault, marks=[pytest.mark.faults] if fault in LONG else [], id=fault.__name__)
    for fault in FAULTS
]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder whose `run` is a small disk of its own, which can be filled."""
    run = tmp_path / "run"
    run.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(run)], check=True)
    yield tmp_path
    subprocess.run(["umount", "--lazy", str(run)], check=True)


@pytest.mark.parametrize("fault", CASES)
def test_a_fault_changes_no_result(
    cluster: Cluster,
    undisturbed: dict[str, object],
    folder: Path,
    fault: Callable[[Cluster, Path, int], None],
) -> None:
    run = folder / "run"
    head = start_head(cluster, folder, run)
    try:
        fault(cluster, run, head.pid)
    finally:
        output = wait_for_exit(head, folder)
    assert head.returncode == 0, output
    assert numbers(run) == undisturbed
    assert_nothing_trained_twice(run)
    if fault is refuse_submissions:
        assert "AssocMaxSubmitJobLimit" in output
        assert events(run)["submission_refused"] == 1
    if fault is cancel_a_task:
        assert events(run)["trial_interrupted"] == 1
    if fault in (lose_accounting, refuse_submissions):
        assert events(run)["trial_interrupted"] == 0
