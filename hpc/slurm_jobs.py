"""Jobs under Slurm: array jobs that outlive the head, found again by their names."""

import os
import re
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import submitit
from submitit.helpers import clean_env

from asiarch.hpc.config import CampaignConfig
from asiarch.hpc.failures import Cause
from asiarch.hpc.job_names import job_prefix
from asiarch.hpc.jobs import End, SubmissionRefusedError, TrialId
from asiarch.hpc.layout import RunLayout
from asiarch.hpc.slurm_states import JobState, SlurmStates, jobs_by_name, run_command
from asiarch.hpc.trial import TrialTask

SETTLE_S: Final = 5.0  # a job's files may be seen on a shared disk a moment after its end
NO_LIMIT: Final = 1_000_000  # submitit's own would be 256
KEPT: Final = ("SLURM_CONF", "SLURM_CLUSTERS")  # of the head's own job, what its children may know

# Slurm's word for an end without a result: our cause, and whether the trial itself is to blame
ENDS: Final[dict[str, tuple[Cause, bool]]] = {
    "COMPLETED": ("interrupted", False),
    "PREEMPTED": ("preempted", False),
    "NODE_FAIL": ("node_failure", True),
    "BOOT_FAIL": ("node_failure", True),
    "OUT_OF_MEMORY": ("host_memory", True),
    "TIMEOUT": ("interrupted", False),
    "DEADLINE": ("time_limit", True),
    "CANCELLED": ("cancelled", True),
    "REVOKED": ("cancelled", True),
    "FAILED": ("killed", True),
}

# sbatch's words for a request that this site will never grant
REFUSED_FOR_GOOD: Final = re.compile(
    r"invalid (partition|account|qos|feature|generic resource|constraint|wckey|gpu|time limit)"
    r"|node configuration is not available|memory specification can not be satisfied|more nodes requested than"
    r"|unrecognized option|not permitted to use this partition",
    re.IGNORECASE,
)
# for a queue that is full of the user's jobs, and for a controller that is away or busy
REFUSED_FOR_NOW: Final = re.compile(
    r"SubmitJobs?(Per(User|Account))?Limit|timed out|temporarily|slurm controller|backup controller"
    r"|connection failure|connection refused|is not connected|bytes were transmitted",
    re.IGNORECASE,
)

# caches on the node's own disk: compilers lock and rename in them, which shared disks do badly. A name of its own each
# time: it is removed at the end, and two clusters that share a node count their jobs alike
CACHES: Final = (
    'export ASIARCH_CACHE="$(mktemp -d "${SLURM_TMPDIR:-${TMPDIR:-/tmp}}/asiarch-$SLURM_JOB_ID-XXXXXX")"'
)
SETUP: Final = (
    CACHES,
    # not as the script's last line: the job's exit code is to be srun's
    "trap 'rm -rf \"$ASIARCH_CACHE\"' EXIT",
    'export TRITON_CACHE_DIR="$ASIARCH_CACHE/triton" TORCHINDUCTOR_CACHE_DIR="$ASIARCH_CACHE/inductor"',
    # srun does not take this from sbatch since Slurm 22.05
    'export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}" OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"',
)


class SlurmJobs:
    """Jobs of submitit's Slurm executor; see `Jobs`.

    A job's name is unique: campaign, candidate, rung and attempt, with a word that stands for the campaign's folder.
    A head that died between sbatch's return and its journal's line left a job whose name the next head is about to
    use: that one is taken over, or cancelled where submitit had not come to name its pickles.
    """

    def __init__(self, run: RunLayout, config: CampaignConfig) -> None:
        self._run = run
        self._config = config
        self._states = SlurmStates()
        self._jobs: dict[TrialId, str] = {}
        self._prefix = job_prefix(run, config.name)
        self._max_array_size: int | None = None
        self._orphans: dict[str, list[str]] | None = None  # looked for before the first submission

    def submit(
        self, candidate: int, rung: int, seeds: Sequence[int], attempt: int, exclude: Sequence[str]
    ) -> list[str]:
        """See `Jobs.submit`."""
        name = f"{self._prefix}{candidate:04d}-r{rung}-t{attempt}"
        longest = self._longest_array()
        jobs = []
        for part, start in enumerate(range(0, len(seeds), longest)):
            own, own_name = seeds[start : start + longest], f"{name}-p{part}" if part else name
            jobs += self._orphan(own_name, candidate, rung, len(own)) or self._submit(
                own_name, candidate, rung, own, exclude
            )
        for seed, job in zip(seeds, jobs, strict=True):
            self.adopt((candidate, rung, seed), job)
        return jobs

    def _longest_array(self) -> int:
        """The site's MaxArraySize: the highest index is one less."""
        if self._max_array_size is None:
            settings = run_command(["scontrol", "show", "config"]) or ""
            found = re.search(r"^MaxArraySize\s*=\s*(\d+)", settings, re.MULTILINE)
            if found is None:
                raise SubmissionRefusedError("scontrol does not say how long an array may be", passing=True)
            self._max_array_size = max(1, int(found[1]))
        return self._max_array_size

    def _submit(
        self, name: str, candidate: int, rung: int, seeds: Sequence[int], exclude: Sequence[str]
    ) -> list[str]:
        tasks = [
            TrialTask(str(self._run.root), candidate, rung, seed, uuid.uuid4().hex[:12], None, None)
            for seed in seeds
        ]
        for seed in seeds:
            # what an earlier try wrote would be taken for this one's
            self._run.trial(candidate, rung, seed).progress.unlink(missing_ok=True)
        executor = submitit.SlurmExecutor(self._run.jobs(candidate, rung))
        comment = f"asiarch-hpc candidate={candidate} rung={rung} run={self._run.root}"
        executor.update_parameters(job_name=name, comment=comment, **job_parameters(self._config, exclude))
        try:
            with clean_environment():
                jobs = executor.submit_array(tasks)
        except Exception as error:  # submitit passes on what sbatch said
            # a controller that answered too late may have taken the job all the same: look again before the next try
            self._orphans = None
            reason = " ".join(str(error).split())
            for_good, passing = (bool(p.search(reason)) for p in (REFUSED_FOR_GOOD, REFUSED_FOR_NOW))
            raise SubmissionRefusedError(reason[-300:], for_good, passing) from None
        return [job.job_id for job in jobs]

    def _orphan(self, name: str, candidate: int, rung: int, count: int) -> list[str]:
        """The job of that name which no journal knows; [] where there is none."""
        if self._orphans is None:
            self._orphans = jobs_by_name(self._prefix)
            if self._orphans is None:
                raise SubmissionRefusedError(
                    "squeue does not answer, so what was submitted before is not known", passing=True
                )
        arrays = {job.split("_")[0] for job in self._orphans.pop(name, [])}
        folder = self._run.jobs(candidate, rung)
        # the latest first: a head that died twice at the same submission leaves two jobs of one name
        for array in sorted(arrays, key=int, reverse=True):
            jobs = [array] if count == 1 else [f"{array}_{index}" for index in range(count)]
            if all((folder / f"{job}_submitted.pkl").exists() for job in jobs):
                return jobs
            run_command(["scancel", array])
        return []

    def adopt(self, trial: TrialId, job: str) -> None:
        """See `Jobs.adopt`."""
        if trial in self._jobs:
            self._states.forget(self._jobs[trial])
        self._jobs[trial] = job
        self._states.watch([job])

    def end(self, trial: TrialId) -> End | None:
        """See `Jobs.end`."""
        job = self._jobs[trial]
        state = self._states.of(job)
        if state is None:
            if self._states.lost(job):
                return End("killed", f"Slurm no longer knows job {job}", own_fault=True)
            return None
        if not state.ended or time.time() - state.since < SETTLE_S:
            return None
        cause, own_fault = ENDS.get(state.word, ("killed", True))
        return End(cause, f"job {job} ended as {_words(state)}", own_fault, state.node)

    def running_since(self, trial: TrialId) -> float | None:
        """See `Jobs.running_since`; a job that was requeued begins anew."""
        state = self._states.of(self._jobs[trial])
        return state.since if state is not None and state.word == "RUNNING" else None

    def node(self, trial: TrialId) -> str:
        """See `Jobs.node`."""
        state = self._states.of(self._jobs[trial])
        return state.node if state is not None and re.fullmatch(r"[\w.-]+", state.node) else ""

    def stop(self, trials: Sequence[TrialId], patience_s: float) -> None:
        """Cancel the jobs: SIGTERM, and SIGKILL after the site's KillWait."""
        if jobs := [self._jobs[trial] for trial in trials]:
            run_command(["scancel", *jobs])

    def leave(self, trials: Sequence[TrialId]) -> None:
        """They go on; the next head finds them by their ids in the journal."""


def batch_script(config: CampaignConfig, folder: Path) -> str:
    """A script for sbatch that asks for what a candidate's job asks for, and does nothing."""
    executor = submitit.SlurmExecutor(folder)
    executor.update_parameters(job_name=f"{config.name}-doctor", **job_parameters(config, []))
    text: str = executor._make_submission_file_text("true", "doctor")
    return text


def _words(state: JobState) -> str:
    parts = [state.word]
    parts += [f"reason {state.reason}"] if state.reason else []
    parts += [f"exit code {state.exit_code}"] if state.exit_code not in ("", "0:0") else []
    parts += [f"on {state.node}"] if state.node else []
    return ", ".join(parts)


def job_parameters(config: CampaignConfig, exclude: Sequence[str]) -> dict[str, object]:
    """What a candidate's job asks for, in submitit's words."""
    slurm = config.slurm
    parameters = {
        "partition": slurm.partition,
        "account": slurm.account,
        "qos": slurm.qos,
        "setup": [*slurm.setup, *SETUP],
        "array_parallelism": slurm.array_parallelism or NO_LIMIT,
        "additional_parameters": {"requeue": True, **slurm.extra},
        "mem": None if slurm.mem_gb is None else f"{slurm.mem_gb}G",
        "time": slurm.time // 60,
        "nodes": slurm.nodes,
        "ntasks_per_node": max(1, slurm.gpus_per_node),
        "gpus_per_node": slurm.gpus_per_node or None,
        "cpus_per_task": slurm.cpus_per_task,
        "exclude": ",".join(exclude) or None,
    }
    return {name: value for name, value in parameters.items() if value is not None}


@contextmanager
def clean_environment() -> Iterator[None]:
    """Without what the head's own job is told of itself: sbatch would take it for the new job's wishes."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    with clean_env():
        os.environ.update(kept)
        yield
