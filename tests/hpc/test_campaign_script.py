"""slurm/campaign.sh on a real Slurm, around a head that only waits: who starts it again, and who does not."""

import os
import socket
import subprocess
from pathlib import Path

import pytest
from cluster import SLURM, Cluster, wait_until

pytestmark = pytest.mark.slow

# says what it was given, and ends when it is told to
HEAD = """#!/bin/bash
echo "head $* log=$ASIARCH_HEAD_LOG start=$SLURM_RESTART_COUNT"
[ -e busy ] && trap '' TERM || trap 'echo stopped; exit 3' TERM
until [ -e finished ]; do sleep 0.2; done
"""


class Heads:
    """Head jobs in one folder."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self._cluster, self._folder = cluster, folder
        program = folder / "asiarch-hpc"
        program.write_text(HEAD)
        program.chmod(0o755)

    def submit(self, *arguments: str) -> str:
        """Submit one, as a user does, and wait until it is at work; its job's id."""
        done = subprocess.run(
            ["sbatch", "--parsable", *arguments],
            env=self._cluster.environment | {"ASIARCH_BIN": str(self._folder)},
            cwd=self._folder,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        job = done.stdout.strip()
        wait_until(lambda: "head " in self.log(job))
        return job

    def log(self, job: str) -> str:
        paths = list(self._folder.glob(f"*-{job}.log"))
        return paths[0].read_text() if paths else ""

    def finish(self) -> None:
        """Let all end as finished, once they look; and wait for that."""
        (self._folder / "finished").touch()
        wait_until(lambda: not self._cluster.run("squeue", "-h"))


@pytest.fixture
def heads(cluster: Cluster, tmp_path: Path) -> Heads:
    return Heads(cluster, tmp_path)


def test_a_warning_starts_the_head_again_and_a_person_s_scancel_does_not(
    cluster: Cluster, heads: Heads
) -> None:
    script = str(SLURM / "campaign.sh")
    warned, cancelled = heads.submit(script, "a.yaml"), heads.submit(script, "b.yaml")
    cluster.run("scancel", "--batch", "--signal=USR1", warned)
    cluster.run("scancel", cancelled)
    wait_until(lambda: "start=1" in heads.log(warned))
    heads.finish()
    assert heads.log(warned).count("stopped") == 1
    assert "start=1" not in heads.log(cancelled)
    ends = cluster.run("squeue", "-h", "-t", "all", "-j", f"{warned},{cancelled}", "-o", "%i %T").splitlines()
    assert set(ends) == {f"{warned} COMPLETED", f"{cancelled} CANCELLED"}


def test_where_requeueing_is_forbidden_a_successor_asks_for_the_same_and_goes_on_in_the_log(
    cluster: Cluster, heads: Heads
) -> None:
    asked = ("--no-requeue", "--time=50", "--mem=3G", "--qos=normal", "--job-name=mine", "--cpus-per-task=2")
    first = heads.submit(
        *asked, "--partition=high", str(SLURM / "campaign.sh"), "a b.yaml", "--set", "x=[1, 2]"
    )
    cluster.run("scancel", "--batch", "--signal=USR1", first)
    wait_until(lambda: heads.log(first).count("head run a b.yaml --set x=[1, 2]") == 2)
    heads.finish()
    shown = cluster.run("squeue", "-h", "-t", "all", "-n", "mine", "-o", "%i|%l|%m|%q|%P|%C|%T").splitlines()
    assert len(shown) == 2
    assert {row.partition("|")[2] for row in shown} == {"50:00|3G|normal|high|2|COMPLETED"}


@pytest.mark.faults
def test_a_head_that_does_not_listen_is_killed_and_started_again(
    cluster: Cluster, heads: Heads, tmp_path: Path
) -> None:
    (tmp_path / "busy").touch()
    # by Slurm's own clock, which may warn a minute early
    job = heads.submit("--time=3", "--signal=B:USR1@90", str(SLURM / "campaign.sh"), "a.yaml")
    wait_until(lambda: "start=1" in heads.log(job), 300)
    heads.finish()


def test_a_port_in_use_is_said_before_any_daemon_starts(tmp_path: Path) -> None:
    folder = tmp_path / "cluster"
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        settings = {"ASIARCH_DEV_CLUSTER": str(folder), "ASIARCH_DEV_PORT": str(port - 11)}  # n1's is it
        refused = subprocess.run(
            [str(SLURM / "dev-cluster.sh"), "start"],
            env={**os.environ, **settings},
            capture_output=True,
            text=True,
        )
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"dev-cluster: port {port} is in use, by another cluster perhaps")
    assert len(refused.stderr.splitlines()) == 1
    assert not folder.exists()
