"""What people ask of a campaign on a real Slurm: a size, a budget, logs, a stop, a cancel, the doctor."""

import json
import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from cluster import (
    ON_SLURM,
    PROGRAM,
    Cluster,
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


@pytest.mark.faults
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


@pytest.mark.faults
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
