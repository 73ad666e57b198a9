"""Campaigns on a real Slurm, one machine of several virtual nodes: heads that come and go, and what people ask for.

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


def test_stop_now_cancels_the_jobs_and_the_same_command_goes_on(
    cluster: Cluster, undisturbed: dict[str, object], tmp_path: Path
) -> None:
    sbatch_head(cluster, tmp_path)
    run = tmp_path / "run"
    training(cluster, run)
    stop = [PROGRAM, "stop", "--now", "--run", str(run)]
    assert cluster.run(*stop).startswith("stopped; `asiarch-hpc run --run")
    wait_until(lambda: not cluster.run("squeue", "-h"))
    assert events(run)["head_stopped"] == 1
    again = sbatch_head(cluster, tmp_path)
    training(cluster, run)
    # a head that a person cancels stays away and leaves its jobs running: they are cancelled without it
    cluster.run("scancel", again)
    wait_until(lambda: not head_is_alive(run))
    wait_until(lambda: "CANCELLED" in cluster.run("squeue", "-h", "-t", "all", "-j", again, "-o", "%T"))
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
def test_a_trial_that_a_person_cancels_twice_is_not_tried_again(cluster: Cluster, tmp_path: Path) -> None:
    run = tmp_path / "run"
    head = start_head(cluster, tmp_path, run)
    try:
        job = training(cluster, run, candidate="0001")[0]
        seed = cancelled_seed(cluster, run, job)
        wait_until(lambda: job_of(run, seed) != job)
        job = job_of(run, seed)
        wait_until(lambda: job in cluster.running())
        cluster.run("scancel", job)
    finally:
        output = wait_for_exit(head, tmp_path)
    assert head.returncode == 0, output
    failed = [event for event in read_journal(run) if event["event"] == "trial_failed"]
    assert [(event["cause"], event["seed"]) for event in failed] == [("cancelled", seed)]
    assert f"job {job} ended as CANCELLED" in failed[0]["detail"]


def cancelled_seed(cluster: Cluster, run: Path, job: str) -> int:
    cluster.run("scancel", job)
    return next(
        seed
        for event in read_journal(run)
        if event["event"] == "submitted"
        for seed, name in zip(event["seeds"], event["jobs"], strict=True)
        if name == job
    )


def submissions(run: Path, candidate: int) -> int:
    return sum(e["event"] == "submitted" and e["candidate"] == candidate for e in read_journal(run))


def job_of(run: Path, seed: int) -> str:
    """The last job of a seed of candidate 1."""
    jobs = [
        dict(zip(event["seeds"], event["jobs"], strict=True))
        for event in read_journal(run)
        if event["event"] == "submitted" and event["candidate"] == 1
    ]
    return next(found[seed] for found in reversed(jobs) if seed in found)


def test_a_candidate_that_a_person_cancelled_is_settled(cluster: Cluster, tmp_path: Path) -> None:
    run = tmp_path / "run"
    head = start_head(cluster, tmp_path, run)
    try:
        training(cluster, run, candidate="0001")
        cancel = [PROGRAM, "cancel", "1", "--run", str(run)]
        assert cluster.run(*cancel).startswith("cancelled candidate 0001")
    finally:
        output = wait_for_exit(head, tmp_path)
    assert head.returncode == 0, output
    assert events(run)["cancelled"] == 1
    assert events(run)["trial_failed"] == 0
    assert not any(name.count("-0001-") for name, _ in cluster.running().values())


@pytest.mark.faults
def test_a_reference_that_was_cancelled_is_tried_again_by_the_same_command(
    cluster: Cluster, undisturbed: dict[str, object], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    head = start_head(cluster, tmp_path, run)
    for number in (1, 2):
        wait_until(lambda number=number: submissions(run, 0) >= number)  # type: ignore[misc]
        cluster.run("scancel", training(cluster, run, candidate="0000")[0].split("_")[0])
    output = wait_for_exit(head, tmp_path)
    assert head.returncode == 2, output
    assert "the reference delta_net has no result (cancelled" in output
    head = start_head(cluster, tmp_path, run)
    output = wait_for_exit(head, tmp_path)
    assert head.returncode == 0, output
    assert numbers(run) == undisturbed


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


def test_logs_follow_a_trial_over_a_requeue(
    cluster: Cluster, undisturbed: dict[str, object], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    head = start_head(cluster, tmp_path, run)
    job = training(cluster, run, candidate="0000")[0]
    follow = subprocess.Popen(
        [PROGRAM, "logs", "0", "--follow", "--run", str(run)],
        env=cluster.environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    cluster.run("scontrol", "requeue", job)
    output = wait_for_exit(head, tmp_path)
    followed, _ = follow.communicate(timeout=600)
    assert head.returncode == 0, output
    assert numbers(run) == undisturbed
    assert follow.returncode == 0
    trained = Counter(re.findall(r"(0000/rung\d-seed\d) training step=(\d+)/", followed))
    steps = {name: [int(s) for n, s in trained if n == name] for name, _ in trained}
    assert len(steps) == 4
    # from the first interval on, and what was printed before the requeue is not printed again
    assert all(len(found) > 20 for found in steps.values())
    assert min(steps["0000/rung0-seed0"]) == min(steps["0000/rung0-seed1"]) == 2
    assert {name for name in steps if f"{name} trial finished" in followed} >= {
        "0000/rung0-seed0",
        "0000/rung0-seed1",
    }
    logs = "".join(path.read_text() for path in sorted((run / "slurm").glob("0000-rung*/*_log.out")))
    assert Counter(followed.splitlines()) <= Counter(logs.splitlines())


def test_a_campaign_stops_at_its_gpu_hours(cluster: Cluster, tmp_path: Path) -> None:
    text = CAMPAIGN.replace("candidates: 3", "candidates: 40, gpu_hours: 0.01")
    write_campaign(tmp_path, text)
    run = tmp_path / "run"
    head = start_head(cluster, tmp_path, run, "--set", "slurm.gpus_per_node=1")
    output = wait_for_exit(head, tmp_path)
    assert head.returncode == 0, output
    assert "of 0.01 GPU-hours are used" in output
    assert events(run)["proposed"] < 40
    shown = cluster.run(PROGRAM, "status", "--json", "--run", str(run))
    usage = json.loads(shown)["usage"]
    assert usage["gpu_hours"] == json.loads(shown)["gpu_hours"] >= 0.01
    # what sacct says by itself of all its jobs
    names = {j.split("_")[0] for e in read_journal(run) if e["event"] == "submitted" for j in e["jobs"]}
    rows = cluster.run("sacct", "-X", "-D", "-n", "-P", "-j", ",".join(names), "-o", "ElapsedRaw,AllocTRES")
    seconds = sum(int(row.split("|")[0]) for row in rows.splitlines() if "gres/gpu=1" in row)
    assert usage["gpu_hours"] <= seconds / 3600 + 1e-4


def test_trials_over_two_nodes_and_seeds_beyond_the_longest_array(cluster: Cluster, tmp_path: Path) -> None:
    text = CAMPAIGN.replace("seeds: 2", "seeds: 3").replace("candidates: 3", "candidates: 1")
    config = write_campaign(tmp_path, text)
    done = subprocess.run(
        [*command(config, tmp_path / "here"), "--set", "local.ranks=2"], capture_output=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    asked = ("--set", "slurm.nodes=2", "--set", "slurm.gpus_per_node=1")
    head = start_head(cluster, tmp_path, tmp_path / "run", *asked)
    output = wait_for_exit(head, tmp_path)
    assert head.returncode == 0, output
    assert numbers(tmp_path / "run") == numbers(tmp_path / "here")
    arrays = [
        {j.split("_")[0] for j in e["jobs"]}
        for e in read_journal(tmp_path / "run")
        if e["event"] == "submitted"
    ]
    assert {len(jobs) for jobs in arrays} == {2}  # the cluster's arrays have two tasks at most
    rows = cluster.run("sacct", "-X", "-n", "-P", "-j", ",".join(arrays[0]), "-o", "AllocNodes,AllocTRES")
    assert len(rows.split()) == 3
    assert all(row.startswith("2|") and "gres/gpu=2," in row for row in rows.split())


def test_the_doctor_finds_what_the_cluster_would_refuse(cluster: Cluster, tmp_path: Path) -> None:
    config = write_campaign(tmp_path, CAMPAIGN)

    def doctor(*options: str) -> tuple[int, str]:
        done = subprocess.run(
            [PROGRAM, "doctor", str(config), "--run", str(tmp_path / "run"), *ON_SLURM, *options],
            env=cluster.environment,
            capture_output=True,
            text=True,
            timeout=900,
        )
        return done.returncode, done.stdout + done.stderr

    code, said = doctor("--job")
    assert code == 0, said
    assert "shares the folder: python" in said
    assert "does not see a lock" not in said
    for setting, words in (
        ("slurm.partition=lwo", "invalid partition specified: lwo"),
        ("slurm.nodes=8", "node"),
        ("slurm.extra={constraint: none-such}", "nvalid feature specification"),
        ("slurm.account=nobody", "has no account nobody"),
        ("slurm.time=20s", "leaves no time for training.checkpoint_every"),
    ):
        options = ["--set", setting]
        if setting == "slurm.time=20s":
            options += ["--set", "training.checkpoint_every=10s"]
        code, said = doctor(*options)
        assert code == 1, (setting, said)
        assert words in said
    cluster.run("scontrol", "update", "PartitionName=low", "MaxTime=00:30:00")
    cluster.run("sacctmgr", "-i", "modify", "qos", "normal", "set", "MaxWall=20", "MaxTRESPerUser=gres/gpu=1")
    cluster.run("sacctmgr", "-i", "modify", "user", "root", "set", "MaxSubmitJobs=1")
    try:
        code, said = doctor("--set", "slurm.time=1h", "--set", "slurm.gpus_per_node=2")
    finally:
        cluster.run("scontrol", "update", "PartitionName=low", "MaxTime=UNLIMITED")
        cluster.run(
            "sacctmgr", "-i", "modify", "qos", "normal", "set", "MaxWall=-1", "MaxTRESPerUser=gres/gpu=-1"
        )
        cluster.run("sacctmgr", "-i", "modify", "user", "root", "set", "MaxSubmitJobs=-1")
    assert code == 1
    assert "set slurm.time to 30m or less" in said
    assert "qos normal: slurm.time is 60 min and 20 are allowed: jobs would wait for ever" in said
    assert "qos normal: a trial asks for 2 GPUs and 1 are allowed (MaxTRESPerUser)" in said
    assert "account root: 1 jobs may wait or run at a time; a candidate is 2" in said
