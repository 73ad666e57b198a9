"""The development cluster for tests, a real Slurm on this machine; and what tests do on it."""

import json
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from asiarch.hpc.journal import read_journal
from campaigns import CAMPAIGN, command, environment, write_campaign

SLURM = Path(__file__).parents[2] / "slurm"
# some seconds of training, so that there is something to disturb
LONGER = CAMPAIGN.replace("tokens: 24_576", "tokens: 393_216").replace("candidates: 3", "candidates: 2")
ON_SLURM = ("--set", "executor=slurm")
FIRST_PORT = 17300


PROGRAM = str(Path(sys.executable).with_name("asiarch-hpc"))


class Cluster:
    """The development cluster, in a folder of this session's own."""

    def __init__(self, folder: Path) -> None:
        self._settings = {
            "ASIARCH_DEV_CLUSTER": str(folder),
            "ASIARCH_DEV_PORT": str(_port()),
            "ASIARCH_DEV_MAX_ARRAY": "2",
        }
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


def _port() -> int:
    """Tests that run side by side have a cluster each; one of tests that were killed may be there still."""
    own = FIRST_PORT + 100 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
    return next(first for first in range(own, 30_000, 1000) if all(map(_is_free, range(first, first + 20))))


def _is_free(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) != 0


def wait_until(condition: Callable[[], object], seconds: float = 600.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.2)


def events(run: Path) -> Counter[str]:
    return Counter(event["event"] for event in read_journal(run)) if run.exists() else Counter()


def sbatch_head(cluster: Cluster, folder: Path, *options: str) -> str:
    """Start a head as a user does; its job's id."""
    config = folder / "tiny.yaml"
    if not config.exists():
        write_campaign(folder, LONGER)
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
        lambda: events(run)["campaign_finished"] and read_journal(run)[-1]["event"] == "head_stopped", 900
    )


def training(cluster: Cluster, run: Path, candidate: str = "*") -> tuple[str, str, str]:
    """Some trial in training: its job, its job's name and its node."""
    found: list[tuple[str, str, str]] = []

    def look() -> bool:
        trained = {
            path for path in run.glob(f"candidates/{candidate}/trials/*/progress.json") if step(path) > 10
        }
        for job, (name, node) in cluster.running().items():
            if trained and "-r" in name and any(f"-{p.parts[-4]}-" in name for p in trained):
                found.append((job, name, node))
        return bool(found)

    wait_until(look)
    return found[0]


def step(path: Path) -> int:
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


def assert_nothing_trained_twice(run: Path) -> None:
    """Every trial was submitted once and once more for each time that it was cut short, and has one end."""
    submitted, ended = Counter[tuple[int, int, int]](), Counter[tuple[int, int, int]]()
    for event in read_journal(run):
        if event["event"] == "submitted":
            submitted.update((event["candidate"], event["rung"], seed) for seed in event["seeds"])
        elif event["event"] in ("trial_interrupted", "trial_finished", "trial_failed"):
            trial = (event["candidate"], event["rung"], event["seed"])
            submitted[trial] -= event["event"] == "trial_interrupted"
            ended[trial] += event["event"] != "trial_interrupted"
    assert submitted
    assert set(submitted.values()) == set(ended.values()) == {1}
    assert submitted.keys() == ended.keys()


def read_name(cluster: Cluster, job: str) -> str:
    rows = cluster.run("squeue", "-h", "-t", "all", "-o", "%F|%j").splitlines()
    name = next(row.split("|")[1] for row in rows if row.split("|")[0] == job)
    return "-".join(name.split("-")[:2]) + "-"


def start_head(cluster: Cluster, folder: Path, run: Path, *options: str) -> "subprocess.Popen[bytes]":
    """A head outside of any job; what it says goes to `folder/head.log`."""
    config = folder / "tiny.yaml"
    if not config.exists():
        write_campaign(folder, LONGER)
    with (folder / "head.log").open("ab") as log:
        return subprocess.Popen(
            [*command(config, run), *ON_SLURM, *options],
            env=cluster.environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def wait_for_exit(head: "subprocess.Popen[bytes]", folder: Path) -> str:
    """The head's whole log, once it has ended; it is killed after a quarter of an hour."""
    try:
        head.wait(timeout=900)
    finally:
        head.kill()
    return (folder / "head.log").read_text()
