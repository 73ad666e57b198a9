"""The cluster: whether Slurm answers, would grant what a trial asks for, and gives it time enough."""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from asiarch.hpc.config import CampaignConfig
from asiarch.hpc.doctor.findings import Finding
from asiarch.hpc.doctor.limits import examine_limits
from asiarch.hpc.doctor.slurm_time import slurm_seconds
from asiarch.hpc.slurm_jobs import batch_script
from asiarch.hpc.slurm_states import run_command

COMMANDS = ("sbatch", "squeue", "scancel", "scontrol")


def examine_slurm(config: CampaignConfig) -> Iterator[Finding]:
    """Look at the section `slurm`; nothing is submitted."""
    missing = [command for command in COMMANDS if shutil.which(command) is None]
    if missing:
        remedy = "start on a login node of the cluster, or set executor: local"
        yield Finding("slurm", "error", f"not found: {', '.join(missing)}", remedy)
        return
    controller = run_command(["scontrol", "ping"])
    if controller is None or " UP" not in controller:
        yield Finding(
            "slurm", "error", "the controller does not answer", "try again later; see: scontrol ping"
        )
        return
    yield Finding("slurm", "ok", (run_command(["sbatch", "--version"]) or "").strip())
    yield _accounting()
    yield _request(config)
    yield from _partition(config)
    yield from examine_limits(config)
    yield _time(config)


def _accounting() -> Finding:
    if run_command(["sacct", "--allocations", "--noheader", "--starttime=now-1minutes"]) is None:
        found = "sacct does not answer: GPU-hours come from results alone, and ends from squeue alone"
        return Finding("accounting", "warning", found, "ask the site whether accounting is on")
    return Finding("accounting", "ok", "sacct answers")


def _request(config: CampaignConfig) -> Finding:
    """Slurm's own verdict on the very request that a candidate's job will make."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "candidate.sh"
        script.write_text(batch_script(config, Path(folder)))
        done = subprocess.run(
            ["sbatch", "--test-only", str(script)], capture_output=True, text=True, timeout=60, check=False
        )
    said = " ".join((done.stderr + done.stdout).replace("sbatch:", "").split())
    if done.returncode != 0:
        return Finding(
            "request", "error", said, "mend the section slurm: partition, account, qos, nodes, gpus, mem"
        )
    return Finding("request", "ok", said)


def _partition(config: CampaignConfig) -> Iterator[Finding]:
    names = config.slurm.partition or _default_partition()
    for name in names.split(","):
        shown = run_command(["scontrol", "show", "partition", "--oneliner", name]) or ""
        limit = re.search(r"\bMaxTime=(\S+)", shown)
        limit_s = None if limit is None else slurm_seconds(limit[1])
        if limit_s is not None and limit_s < config.slurm.time:
            yield Finding(
                f"partition {name}",
                "error",
                f"slurm.time is {config.slurm.time // 60} min and the partition allows {limit_s // 60}: jobs would "
                "wait for ever (PartitionTimeLimit)",
                f"set slurm.time to {limit_s // 60}m or less",
            )


def _default_partition() -> str:
    """The partition that sinfo marks with a star."""
    names = (run_command(["sinfo", "--noheader", "--format=%P"]) or "").split()
    return next((name[:-1] for name in names if name.endswith("*")), "")


def _time(config: CampaignConfig) -> Finding:
    seconds, every = config.slurm.time, config.training.checkpoint_every
    if seconds < 3 * every:
        return Finding(
            "time",
            "error",
            f"a job of {seconds} s leaves no time for training.checkpoint_every {every} s",
            "ask for more slurm.time, or write checkpoints more often",
        )
    if seconds < config.trial.timeout:
        return Finding(
            "time",
            "warning",
            f"slurm.time {seconds // 60} min is less than trial.timeout {config.trial.timeout // 60} min: a long "
            "trial goes on in another job, from its checkpoint",
            "ask for as much as a trial needs, where the site allows",
        )
    return Finding("time", "ok", f"{seconds // 60} min a job")
