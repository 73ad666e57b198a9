"""Campaigns on a real Slurm, one machine of several virtual nodes: heads that come and go, and what people ask for.

The undisturbed twin of each campaign ran without Slurm; candidates, programs, losses and ranking must be equal, number
for number.
"""

import random
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
    Cluster,
    assert_one_job_a_submission,
    events,
    sbatch_head,
    start_head,
    training,
    wait_for_exit,
    wait_for_the_end,
    wait_until,
)

from asiarch.hpc.journal import head_is_alive, read_journal
from campaigns import CAMPAIGN, command, numbers, write_campaign

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
    log = (tmp_path / f"asiarch-head-{head}.log").read_text()
    assert f"head: job {head}, start 1, on" in log
    assert "campaign_finished" in log
    assert events(run)["trial_interrupted"] == 0


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


def test_stop_now_cancels_the_jobs_and_the_same_command_goes_on(
    cluster: Cluster, undisturbed: dict[str, object], tmp_path: Path
) -> None:
    sbatch_head(cluster, tmp_path)
    run = tmp_path / "run"
    training(cluster, run)
    stop = [str(Path(sys.executable).with_name("asiarch-hpc")), "stop", "--now", "--run", str(run)]
    assert cluster.run(*stop).startswith("stopped; `asiarch-hpc run --run")
    wait_until(lambda: not cluster.run("squeue", "-h"))
    assert events(run)["head_stopped"] == 1
    again = sbatch_head(cluster, tmp_path)
    training(cluster, run)
    # a head that is gone leaves its jobs running: they are cancelled without it
    cluster.run("scancel", "--full", "--signal=KILL", again)
    wait_until(lambda: not head_is_alive(run))
    assert "no head was running; cancelled" in cluster.run(*stop)
    wait_until(lambda: not cluster.run("squeue", "-h"))
    sbatch_head(cluster, tmp_path)
    wait_for_the_end(run)
    assert numbers(run) == undisturbed
    assert events(run)["trial_failed"] == 0


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
        died = subprocess.run(dying, env=cluster.environment, stdout=subprocess.DEVNULL, timeout=300)
        if events(run)["campaign_finished"]:
            break
        assert died.returncode == -signal.SIGKILL, (moment, count)
    head = subprocess.run(
        [*command(config, run), *ON_SLURM],
        env=cluster.environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert head.returncode == 0, head.stdout + head.stderr
    assert numbers(run) == undisturbed
    submitted = Counter(
        (event["candidate"], event["rung"]) for event in read_journal(run) if event["event"] == "submitted"
    )
    assert set(submitted.values()) == {1}
    assert events(run)["trial_interrupted"] == 0


def test_a_job_that_a_person_cancelled_is_not_tried_again(cluster: Cluster, tmp_path: Path) -> None:
    config, run = write_campaign(tmp_path, LONGER), tmp_path / "run"
    head = subprocess.Popen(
        [*command(config, run), *ON_SLURM], env=cluster.environment, stdout=subprocess.PIPE, text=True
    )
    try:
        job = training(cluster, run, candidate="0001")[0]
        cluster.run("scancel", job)
        output, _ = head.communicate(timeout=300)
    finally:
        head.kill()
    assert head.returncode == 0, output
    failed = [event for event in read_journal(run) if event["event"] == "trial_failed"]
    assert [event["cause"] for event in failed] == ["cancelled"]
    assert f"job {job} ended as CANCELLED" in failed[0]["detail"]


def test_a_candidate_that_a_person_cancelled_is_settled(cluster: Cluster, tmp_path: Path) -> None:
    run = tmp_path / "run"
    head = start_head(cluster, tmp_path, run)
    try:
        training(cluster, run, candidate="0001")
        cancel = [str(Path(sys.executable).with_name("asiarch-hpc")), "cancel", "1", "--run", str(run)]
        assert cluster.run(*cancel).startswith("cancelled candidate 0001")
    finally:
        output = wait_for_exit(head, tmp_path)
    assert head.returncode == 0, output
    assert events(run)["cancelled"] == 1
    assert events(run)["trial_failed"] == 0
    assert not any(name.count("-0001-") for name, _ in cluster.running().values())


def test_a_reference_that_was_cancelled_is_tried_again_by_the_same_command(
    cluster: Cluster, undisturbed: dict[str, object], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    head = start_head(cluster, tmp_path, run)
    cluster.run("scancel", training(cluster, run, candidate="0000")[0].split("_")[0])
    output = wait_for_exit(head, tmp_path)
    assert head.returncode == 2, output
    assert "the reference delta_net has no result (cancelled" in output
    head = start_head(cluster, tmp_path, run)
    output = wait_for_exit(head, tmp_path)
    assert head.returncode == 0, output
    assert numbers(run) == undisturbed


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
    wait_until(lambda: len(list(tmp_path.glob("asiarch-head-*.log"))) == 2)


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


def test_a_request_that_slurm_will_never_grant_ends_the_head_and_can_be_mended(
    cluster: Cluster, undisturbed: dict[str, object], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    head = start_head(cluster, tmp_path, run, "--set", "slurm.partition=lwo")
    output = wait_for_exit(head, tmp_path)
    assert head.returncode == 2
    assert "invalid partition specified: lwo" in output
    assert "Traceback" not in output
    head = start_head(cluster, tmp_path, run, "--set", "slurm.partition=low")
    output = wait_for_exit(head, tmp_path)
    assert head.returncode == 0, output
    assert numbers(run) == undisturbed


def test_trials_over_two_nodes_and_seeds_beyond_the_longest_array(cluster: Cluster, tmp_path: Path) -> None:
    text = CAMPAIGN.replace("seeds: 2", "seeds: 3").replace("candidates: 3", "candidates: 1")
    config = write_campaign(tmp_path, text)
    done = subprocess.run(
        [*command(config, tmp_path / "here"), "--set", "local.ranks=2"], capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    head = start_head(cluster, tmp_path, tmp_path / "run", "--set", "slurm.nodes=2")
    output = wait_for_exit(head, tmp_path)
    assert head.returncode == 0, output
    assert numbers(tmp_path / "run") == numbers(tmp_path / "here")
    arrays = [
        {j.split("_")[0] for j in e["jobs"]}
        for e in read_journal(tmp_path / "run")
        if e["event"] == "submitted"
    ]
    assert {len(jobs) for jobs in arrays} == {2}  # the cluster's arrays have two tasks at most
    nodes = cluster.run("sacct", "-X", "-n", "-P", "-j", ",".join(arrays[0]), "-o", "AllocNodes").split()
    assert set(nodes) == {"2"}


def test_the_doctor_finds_what_the_cluster_would_refuse(cluster: Cluster, tmp_path: Path) -> None:
    config = write_campaign(tmp_path, CAMPAIGN)

    def doctor(*options: str) -> tuple[int, str]:
        program = str(Path(sys.executable).with_name("asiarch-hpc"))
        done = subprocess.run(
            [program, "doctor", str(config), "--run", str(tmp_path / "run"), *ON_SLURM, *options],
            env=cluster.environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        return done.returncode, done.stdout + done.stderr

    code, said = doctor("--job")
    assert code == 0, said
    assert "shares the folder: python" in said
    assert "does not see a lock" not in said
    for setting, words in (
        ("slurm.partition=lwo", "invalid partition specified: lwo"),
        ("slurm.nodes=8", "node"),
        ("slurm.extra={account: nobody, constraint: none-such}", "nvalid feature specification"),
        ("slurm.time=20s", "leaves no time for training.checkpoint_every"),
    ):
        options = ["--set", setting]
        if setting == "slurm.time=20s":
            options += ["--set", "training.checkpoint_every=10s"]
        code, said = doctor(*options)
        assert code == 1, (setting, said)
        assert words in said
    cluster.run("scontrol", "update", "PartitionName=low", "MaxTime=00:30:00")
    try:
        code, said = doctor("--set", "slurm.time=1h")
    finally:
        cluster.run("scontrol", "update", "PartitionName=low", "MaxTime=UNLIMITED")
    assert code == 1
    assert "set slurm.time to 30m or less" in said
