"""Heads that come and go on a real Slurm, one machine of several virtual nodes.

The undisturbed twin of each campaign ran without Slurm; candidates, programs, losses and ranking must be equal, number
for number.
"""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from cluster import (
    LONGER,
    ON_SLURM,
    PROGRAM,
    Cluster,
    assert_nothing_trained_twice,
    assert_one_job_a_submission,
    events,
    sbatch_head,
    start_head,
    training,
    wait_for_exit,
    wait_for_the_end,
    wait_until,
)

from asiarch.hpc.journal import read_journal
from campaigns import command, numbers, write_campaign

pytestmark = pytest.mark.slow


def test_sbatch_campaign_gives_what_one_machine_gives(
    cluster: Cluster, undisturbed: dict[str, object], tmp_path: Path
) -> None:
    head = sbatch_head(cluster, tmp_path)
    run = tmp_path / "run"
    wait_for_the_end(run)
    assert numbers(run) == undisturbed
    assert_one_job_a_submission(cluster, run)
    wait_until(lambda: "COMPLETED" in cluster.run("squeue", "-h", "-t", "all", "-j", head, "-o", "%T"))
    path = tmp_path / f"asiarch-head-{head}.log"
    log = path.read_text()
    assert f"in {run}; head: job {head}, start 1, on" in log.splitlines()[0]
    assert f"log {path}; watch: asiarch-hpc status --watch --run {run}" in log.splitlines()[0]
    assert "campaign_finished" in log
    assert events(run)["trial_interrupted"] == 0
    usage = json.loads(cluster.run(PROGRAM, "status", "--json", "--run", str(run)))["usage"]
    assert usage["cpu_hours"] > 0


def test_a_head_before_its_time_limit_hands_over_to_itself(
    cluster: Cluster, undisturbed: dict[str, object], tmp_path: Path
) -> None:
    head = sbatch_head(cluster, tmp_path)
    run = tmp_path / "run"
    training(cluster, run)
    # what --signal=B:USR1@120 sends
    cluster.run("scancel", "--batch", "--signal=USR1", head)
    wait_until(lambda: events(run)["head_started"] == 2)
    cluster.run("scontrol", "requeue", head)  # and what a preemption does
    wait_for_the_end(run)
    assert events(run)["head_started"] == 3
    assert numbers(run) == undisturbed
    assert_one_job_a_submission(cluster, run)
    log = (tmp_path / f"asiarch-head-{head}.log").read_text()
    assert f"head: job {head}, start 3" in log
    assert "running trials go on" in log


DYING_HEAD = """
import os, signal, sys
import asiarch.hpc.slurm_jobs as jobs
from asiarch.hpc.journal import Journal
moment, count = sys.argv.pop(1), int(sys.argv.pop(1))
append = Journal.append
def deadly(self, event, **fields):
    global count
    if event == "submitted":
        count -= 1
    if event == "submitted" and not count and moment == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    record = append(self, event, **fields)
    if event == "submitted" and not count:
        os.kill(os.getpid(), signal.SIGKILL)
    return record
Journal.append = deadly
if moment == "within":
    # sbatch has returned, and submitit has not yet given the pickles their names
    submit = jobs.submitit.SlurmExecutor._submit_command
    def halfway(self, command):
        global count
        job = submit(self, command)
        count -= 1
        if not count:
            os.kill(os.getpid(), signal.SIGKILL)
        return job
    jobs.submitit.SlurmExecutor._submit_command = halfway
from asiarch.hpc.cli.main import main
main()
"""


def test_heads_killed_around_their_submissions_submit_nothing_twice(
    cluster: Cluster, undisturbed: dict[str, object], tmp_path: Path
) -> None:
    config, run = write_campaign(tmp_path, LONGER), tmp_path / "run"
    for moment, count in (("before", 1), ("after", 1), ("within", 1), ("before", 2), ("within", 1)):
        dying = [
            sys.executable,
            "-c",
            DYING_HEAD,
            moment,
            str(count),
            "run",
            str(config),
            "--run",
            str(run),
            *ON_SLURM,
        ]
        died = subprocess.run(dying, env=cluster.environment, stdout=subprocess.DEVNULL, timeout=900)
        if events(run)["campaign_finished"]:
            break
        assert died.returncode == -signal.SIGKILL, (moment, count)
    head = subprocess.run(
        [*command(config, run), *ON_SLURM],
        env=cluster.environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert head.returncode == 0, head.stdout + head.stderr
    assert numbers(run) == undisturbed
    submitted = Counter(
        (event["candidate"], event["rung"]) for event in read_journal(run) if event["event"] == "submitted"
    )
    assert set(submitted.values()) == {1}
    assert events(run)["trial_interrupted"] == 0


@pytest.mark.faults
def test_a_head_where_requeueing_is_forbidden_chains_a_successor(
    cluster: Cluster, undisturbed: dict[str, object], tmp_path: Path
) -> None:
    first = sbatch_head(cluster, tmp_path, "--no-requeue")
    run = tmp_path / "run"
    training(cluster, run)
    cluster.run("scancel", "--batch", "--signal=USR1", first)
    wait_for_the_end(run)
    assert events(run)["head_started"] == 2
    assert numbers(run) == undisturbed


@pytest.mark.faults
def test_a_head_that_is_too_busy_to_hand_over_is_killed_before_its_time_limit(
    cluster: Cluster, undisturbed: dict[str, object], tmp_path: Path
) -> None:
    # Slurm's own clock: the warning comes up to a minute early
    job = sbatch_head(cluster, tmp_path, "--time=3", "--signal=B:USR1@90")
    run = tmp_path / "run"
    training(cluster, run)
    holder = int(re.findall(r"pid (\d+)", (run / "head.lock").read_text())[0])
    os.kill(holder, signal.SIGSTOP)
    wait_until(lambda: events(run)["head_started"] == 2, 300)
    wait_for_the_end(run)
    assert numbers(run) == undisturbed
    assert_one_job_a_submission(cluster, run)
    assert_nothing_trained_twice(run)
    assert f"head: job {job}, start 2" in (tmp_path / f"asiarch-head-{job}.log").read_text()


@pytest.mark.faults
def test_a_preempted_head_goes_on(cluster: Cluster, undisturbed: dict[str, object], tmp_path: Path) -> None:
    head = sbatch_head(cluster, tmp_path)
    run = tmp_path / "run"
    training(cluster, run)
    node = cluster.running()[head][1]
    cluster.run("sbatch", "-p", "high", "-w", node, "--exclusive", "-o", "/dev/null", "--wrap", "sleep 3")
    wait_until(lambda: events(run)["head_started"] == 2)
    wait_for_the_end(run)
    assert numbers(run) == undisturbed
    assert_one_job_a_submission(cluster, run)


@pytest.mark.faults
def test_a_head_killed_at_random_moments_loses_nothing(
    cluster: Cluster, undisturbed: dict[str, object], tmp_path: Path
) -> None:
    run, moments = tmp_path / "run", random.Random(7)
    for _ in range(5):
        head = start_head(cluster, tmp_path, run)
        time.sleep(moments.uniform(2, 12))
        head.kill()
        head.wait()
    head = start_head(cluster, tmp_path, run)
    output = wait_for_exit(head, tmp_path)
    assert head.returncode == 0, output
    assert numbers(run) == undisturbed
    assert_one_job_a_submission(cluster, run)
    assert events(run)["trial_interrupted"] == 0


@pytest.mark.faults
def test_a_second_head_is_kept_out(cluster: Cluster, undisturbed: dict[str, object], tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = start_head(cluster, tmp_path, run)
    training(cluster, run)
    (tmp_path / "second").mkdir()
    second = start_head(cluster, tmp_path / "second", run)
    refusal = wait_for_exit(second, tmp_path / "second")
    assert second.returncode == 2
    assert f"another head runs this campaign (pid {first.pid}" in refusal
    output = wait_for_exit(first, tmp_path)
    assert first.returncode == 0, output
    assert numbers(run) == undisturbed
