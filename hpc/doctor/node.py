"""A compute node, looked at by a short job that asks for what a trial asks for."""

import json
import os
import platform
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import submitit

from asiarch.hpc.code_version import code_version
from asiarch.hpc.config import CampaignConfig
from asiarch.hpc.doctor.findings import Finding, Level
from asiarch.hpc.locks import is_locked, try_lock
from asiarch.hpc.slurm_jobs import clean_environment, job_parameters
from asiarch.hpc.slurm_states import run_command
from asiarch.models.errors import SandboxError
from asiarch.models.sandbox import require_layers
from asiarch.results.files import atomic_write_text

POLL_S = 1.0


@dataclass(frozen=True)
class NodeLook:
    """What the job runs: it writes what it sees to `folder/node.json`."""

    folder: str
    lock: str

    def __call__(self) -> None:
        """Look, and write."""
        import torch

        seen = {
            "host": socket.gethostname(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "code": code_version(),
            "gpus": torch.cuda.device_count(),
            "sandbox": _lacking_layers(),
            "lock_seen": is_locked(Path(self.lock)),
        }
        atomic_write_text(Path(self.folder) / "node.json", json.dumps(seen))


def examine_node(config: CampaignConfig, folder: Path, patience_s: float) -> Iterator[Finding]:
    """Submit the job and wait for its word; it is cancelled where it does not come in time."""
    place = folder / f".doctor-{uuid.uuid4().hex[:8]}"
    place.mkdir(parents=True)
    lock = place / "lock"
    executor = submitit.SlurmExecutor(place)
    executor.update_parameters(
        **job_parameters(config, []) | {"job_name": f"{config.name}-doctor", "time": 10}
    )
    with ExitStack() as held:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        held.callback(os.close, handle)
        try_lock(handle)
        try:
            with clean_environment():
                job = executor.submit(NodeLook(str(place), str(lock)))
        except Exception as error:  # submitit passes on what sbatch said
            yield Finding("node", "error", " ".join(str(error).split()), "mend the section slurm")
            return
        seen = _wait(place / "node.json", job, patience_s)
    if seen is None:
        run_command(["scancel", job.job_id])
        yield Finding(
            "node",
            "error",
            f"job {job.job_id} left no word in {place} within {patience_s:.0f} s",
            f"look into {place}/*_log.err; if it ran, the nodes don't share this folder; if not, the queue is long",
        )
        return
    yield from _judge(config, seen)


def _lacking_layers() -> str:
    try:
        require_layers()
    except SandboxError as error:
        return str(error)
    return ""


def _wait(path: Path, job: "submitit.Job[None]", patience_s: float) -> "dict[str, object] | None":
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        if path.exists():
            found: dict[str, object] = json.loads(path.read_text())
            return found
        time.sleep(POLL_S)
    return None


def _judge(config: CampaignConfig, seen: dict[str, object]) -> Iterator[Finding]:
    import torch

    host = seen["host"]
    yield Finding("node", "ok", f"{host} shares the folder: python {seen['python']}, torch {seen['torch']}")
    here = {"python": platform.python_version(), "torch": torch.__version__, "code": code_version()}
    for name, version in here.items():
        if seen[name] != version:
            remedy = "use one environment on a shared disk for all nodes"
            yield Finding(name, "error", f"{version} here, {seen[name]} on {host}", remedy)
    asked = config.slurm.gpus_per_node
    if int(str(seen["gpus"])) < asked:
        yield Finding(
            "gpu",
            "error",
            f"{asked} asked for on a node, and torch sees {seen['gpus']} on {host}",
            "check the driver and that torch is a CUDA build; some sites want extra: {gres: ...}",
        )
    if seen["sandbox"]:
        level: Level = "error" if config.sandbox == "required" else "warning"
        yield Finding(
            "sandbox", level, f"on {host}: {seen['sandbox']}", "programs are held there by rlimits alone"
        )
    if not seen["lock_seen"]:
        yield Finding(
            "locks",
            "warning",
            f"{host} does not see a lock that is held here: the disk has no locks across nodes",
            "start one head only, and put the campaign on a disk with locks (NFS 4, Lustre with -o flock) if you can",
        )
