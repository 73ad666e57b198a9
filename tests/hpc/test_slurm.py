"""Campaigns on a real Slurm, one machine of several virtual nodes: whatever happens, the same results.

Each fault meets a campaign whose undisturbed twin ran without Slurm; candidates, programs, losses and ranking must be
equal, number for number.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from asiarch.hpc.journal import head_is_alive, read_journal
from campaigns import CAMPAIGN, command, environment, numbers, run_to_the_end, write_campaign

pytestmark = pytest.mark.slow

SLURM = Path(__file__).parents[2] / "slurm"
# some seconds of training, so that there is something to disturb
LONGER = CAMPAIGN.replace("tokens: 24_576", "tokens: 393_216").replace("candidates: 3", "candidates: 2")
ON_SLURM = ("--set", "executor=slurm")


class Cluster:
    """The development cluster, in a folder of this session's own."""

    def __init__(self, folder: Path) -> None:
        self._settings = {"ASIARCH_DEV_CLUSTER": str(folder), "ASIARCH_DEV_PORT": "17300"}
        self.environment = environment(SLURM_CONF=str(folder / "etc" / "slurm.conf"))

    def script(self, *arguments: str) -> None:
        done = subprocess.run(
            [str(SLURM / "dev-cluster.sh"), *arguments],
            env=environment(**self._settings),
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def run(self, *arguments: str) -> str:
        done = subprocess.run(arguments, env=self.environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def running(self) -> dict[str, tuple[str, str]]:
        """Job id: name and node, of what runs."""
        rows = self.run("squeue", "-h", "-r", "-t", "RUNNING", "-o", "%i|%j|%N").splitlines()
        return {job: (name, node) for job, name, node in (row.split("|") for row in rows)}

    def heads_and_trials_end(self) -> None:
        self.run("scancel", "--user=root", "--quiet")
        wait_until(lambda: not self.run("squeue", "-h"))


@pytest.fixture(scope="module")
def whole_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if os.geteuid() != 0:
        pytest.skip("a cluster of one's own needs root")
    # a short path: the daemons' sockets lie in it
    cluster = Cluster(Path(f"/tmp/asiarch-test-cluster-{os.getpid()}"))
    cluster.script("start")
    yield cluster
    cluster.script("wipe")


@pytest.fixture
def cluster(whole_cluster: Cluster) -> Iterator[Cluster]:
    yield whole_cluster
    whole_cluster.script("start")  # whatever the test left down
    whole_cluster.run("scontrol", "update", "PartitionName=low", "State=UP")
    whole_cluster.heads_and_trials_end()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("undisturbed")
    run_to_the_end(write_campaign(folder, LONGER), folder / "run")
    return numbers(folder / "run")


def wait_until(condition: Callable[[], object], seconds: float = 180.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.2)


def events(run: Path) -> Counter[str]:
    return Counter(event["event"] for event in read_journal(run)) if run.exists() else Counter()


def sbatch_head(cluster: Cluster, folder: Path, *options: str) -> str:
    """Start a head as a user does; its job's id."""
    config = write_campaign(folder, LONGER)
    done = subprocess.run(
        ["sbatch", "--parsable", *options, SLURM / "campaign.sh", config, "--run", folder / "run", *ON_SLURM],
        env=cluster.environment | {"ASIARCH_BIN": str(Path(sys.executable).parent)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def wait_for_the_end(run: Path) -> None:
    wait_until(
        lambda: events(run)["campaign_finished"] and read_journal(run)[-1]["event"] == "head_stopped", 300
    )


def training(cluster: Cluster, run: Path, candidate: str = "*") -> tuple[str, str, str]:
    """Some trial in training: its job, its job's name and its node."""
    found: list[tuple[str, str, str]] = []

    def look() -> bool:
        trained = {
            path for path in run.glob(f"candidates/{candidate}/trials/*/progress.json") if _step(path) > 10
        }
        for job, (name, node) in cluster.running().items():
            if trained and "-r" in name and any(f"-{p.parts[-4]}-" in name for p in trained):
                found.append((job, name, node))
        return bool(found)

    wait_until(look)
    return found[0]


def _step(path: Path) -> int:
    try:
        progress = json.loads(path.read_text())
    except (OSError, ValueError):
        return 0
    return int(progress["step"]) if progress["phase"] == "training" else 0


def assert_one_job_a_submission(cluster: Cluster, run: Path) -> None:
    """What sbatch took is what the journal has: no candidate twice, none lost."""
    submitted = [
        job.split("_")[0] for e in read_journal(run) if e["event"] == "submitted" for job in e["jobs"][:1]
    ]
    assert len(set(submitted)) == len(submitted)
    names = cluster.run("squeue", "-h", "-t", "all", "-o", "%F|%j").splitlines()
    word = read_name(cluster, submitted[0])
    known = {row.split("|")[0] for row in names if row.split("|")[1].startswith(word)}
    assert known <= set(submitted)


def read_name(cluster: Cluster, job: str) -> str:
    rows = cluster.run("squeue", "-h", "-t", "all", "-o", "%F|%j").splitlines()
    name = next(row.split("|")[1] for row in rows if row.split("|")[0] == job)
    return "-".join(name.split("-")[:2]) + "-"


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


def requeue_a_trial(cluster: Cluster, run: Path) -> None:
    cluster.run("scontrol", "requeue", training(cluster, run)[0])


def preempt_trials(cluster: Cluster, run: Path) -> None:
    training(cluster, run)
    cluster.run("sbatch", "-p", "high", "-N4", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 5")
    wait_until(lambda: any(name == "wrap" for name, _ in cluster.running().values()))


def lose_a_node(cluster: Cluster, run: Path) -> None:
    node = training(cluster, run)[2]
    cluster.script("lose-node", node)
    wait_until(lambda: node not in {where for _, where in cluster.running().values()})
    cluster.script("start-node", node)


def lose_the_controller(cluster: Cluster, run: Path) -> None:
    training(cluster, run)
    cluster.script("stop-daemon", "slurmctld")
    time.sleep(30)
    cluster.script("start-daemon", "slurmctld")


def lose_accounting(cluster: Cluster, run: Path) -> None:
    cluster.script("stop-daemon", "slurmdbd")
    training(cluster, run)


def refuse_submissions(cluster: Cluster, run: Path) -> None:
    cluster.run("scontrol", "update", "PartitionName=low", "State=DRAIN")
    time.sleep(15)
    cluster.run("scontrol", "update", "PartitionName=low", "State=UP")


def kill_a_trial(cluster: Cluster, run: Path) -> None:
    training(cluster, run)
    progress = max(run.glob("candidates/*/trials/*/progress.json"), key=_step)
    os.kill(json.loads(progress.read_text())["pid"], signal.SIGKILL)


FAULTS = [
    requeue_a_trial,
    preempt_trials,
    lose_a_node,
    lose_the_controller,
    lose_accounting,
    refuse_submissions,
    kill_a_trial,
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_changes_no_result(
    cluster: Cluster, undisturbed: dict[str, object], tmp_path: Path, fault: Callable[[Cluster, Path], None]
) -> None:
    config, run = write_campaign(tmp_path, LONGER), tmp_path / "run"
    head = subprocess.Popen(
        [*command(config, run), *ON_SLURM],
        env=cluster.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        fault(cluster, run)
        output, _ = head.communicate(timeout=300)
    finally:
        head.kill()
    assert head.returncode == 0, output
    assert numbers(run) == undisturbed
    if fault is refuse_submissions:
        assert "refused_submission again_in_s=10" in output
    if fault in (lose_the_controller, lose_accounting, refuse_submissions):
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
