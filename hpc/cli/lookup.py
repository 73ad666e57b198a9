"""A candidate by its number, and the files that its trials' jobs left."""

from pathlib import Path

from asiarch.hpc.layout import RunLayout
from asiarch.hpc.state import CampaignState, Candidate
from asiarch.models.errors import UserError


def get_candidate(state: CampaignState, candidate_id: int) -> Candidate:
    """The candidate of that number. Raises UserError where there is none."""
    if candidate_id not in state.candidates:
        last = max(state.candidates, default=None)
        known = "none was proposed yet" if last is None else f"there are 0 to {last}"
        raise UserError(f"no candidate {candidate_id}: {known}")
    return state.candidates[candidate_id]


def log_path(layout: RunLayout, candidate: int, rung: int, job: str) -> Path:
    """Where submitit writes a task's standard output; the standard error is beside it, as `.err`."""
    return layout.jobs(candidate, rung) / f"{job}_0_log.out"


def script_path(layout: RunLayout, candidate: int, rung: int, job: str) -> Path:
    """The script that sbatch was given."""
    return layout.jobs(candidate, rung) / f"{job.split('_')[0]}_submission.sh"
