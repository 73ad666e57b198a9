"""The processes that train one trial together: which of them this one is, and how they find each other.

Every rank is a process that submitit started: srun's tasks on a cluster, the local executor's children on one
machine. Rank 0 holds the trial's lock; once it may train it opens a port and leaves the address in the trial's
folder, under a name that belongs to this attempt alone. The other ranks wait for that file. So no port is
agreed upon beforehand, and nothing that an earlier attempt left can be taken for this one's.
"""

import json
import os
import socket
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

import submitit

from asiarch.results.files import atomic_write_text

POLL_S = 0.1
PEER_TIMEOUT = timedelta(minutes=10)  # for a rank that neither answers nor dies: a compiler may be at work


@dataclass(frozen=True)
class Ranks:
    """This process among the `world` of its trial. `local` counts on its node, and names its GPU."""

    rank: int = 0
    local: int = 0
    world: int = 1

    @classmethod
    def from_submitit(cls) -> "Ranks":
        """As submitit's environment says; one rank alone outside of a job."""
        try:
            job = submitit.JobEnvironment()
        except RuntimeError:  # none of its executors started this process
            return cls()
        return cls(job.global_rank, job.local_rank, job.num_tasks)


@dataclass(frozen=True)
class Place:
    """Where rank 0 is. `gpus`: its CUDA_VISIBLE_DEVICES, which is that of all ranks on one machine."""

    host: str
    port: int
    gpus: str | None


@dataclass(frozen=True)
class Meeting:
    """Where the ranks of one attempt at a trial meet.

    Args:
        path: the file that rank 0 leaves in the trial's folder.
    """

    path: Path

    @classmethod
    def of(cls, trial: Path, attempt: str) -> "Meeting":
        """The meeting of an attempt; a job that Slurm starts again is another one."""
        return cls(trial / f".ranks-{attempt}-{os.environ.get('SLURM_RESTART_COUNT', '0')}")

    def announce(self, port: int) -> None:
        """For rank 0: say that the others shall come to this host and `port`."""
        place = Place(_address(), port, os.environ.get("CUDA_VISIBLE_DEVICES"))
        atomic_write_text(self.path, json.dumps(asdict(place)))

    def call_off(self, reason: str) -> None:
        """For rank 0: say that there is nothing to do. What was announced stays."""
        if not self.path.exists():
            atomic_write_text(self.path, json.dumps({"reason": reason}))

    def wait(self) -> Place | str:
        """For the other ranks: where to come to, or the reason why there is nothing to do."""
        while True:
            with suppress(FileNotFoundError):
                said = json.loads(self.path.read_text())
                return str(said["reason"]) if "reason" in said else Place(**said)
            time.sleep(POLL_S)


def _address() -> str:
    """An address of this host that other nodes reach; loopback where the host knows no other."""
    try:
        return socket.gethostbyname(socket.gethostname())
    except OSError:
        return "127.0.0.1"
