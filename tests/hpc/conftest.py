"""For each test process that asks for it: a cluster, a rank, the results of an undisturbed campaign."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import LONGER, Cluster

from campaigns import numbers, run_to_the_end, write_campaign


@pytest.fixture(scope="session")
def one_rank() -> Iterator[None]:
    """This process as the one rank of its trainings: DeepSpeed knows the first group of a process alone."""
    from asiarch.hpc.training.process_group import process_group
    from asiarch.hpc.training.ranks import Ranks

    with process_group(Ranks(), threads=1):
        yield


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("undisturbed")
    run_to_the_end(write_campaign(folder, LONGER), folder / "run")
    return numbers(folder / "run")
