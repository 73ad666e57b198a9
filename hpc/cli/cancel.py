"""`asiarch-hpc cancel`: train one candidate no further."""

import time
from pathlib import Path

import click

from asiarch.hpc.cancel_request import read_cancel_requests, write_cancel_request
from asiarch.hpc.cli.lookup import get_candidate
from asiarch.hpc.cli.options import run_option
from asiarch.hpc.journal import Journal, head_is_alive, read_journal
from asiarch.hpc.layout import RunLayout, find_run
from asiarch.hpc.settings import read_settings
from asiarch.hpc.slurm_states import run_command
from asiarch.hpc.state import CampaignState, Candidate
from asiarch.models.errors import UserError

PATIENCE_S = 60.0


@click.command()
@click.argument("candidate_id", metavar="ID", type=int)
@run_option
def cancel(candidate_id: int, run_dir: Path | None) -> None:
    """Cancel a candidate's trials and settle it. Its results and checkpoints stay; what it taught the search too."""
    layout = find_run(run_dir)
    candidate = get_candidate(CampaignState.replay(read_journal(layout.root)), candidate_id)
    if candidate.id == 0:
        raise UserError("candidate 0 is the reference, which all are compared with: use `asiarch-hpc stop`")
    if candidate.settled:
        raise UserError(f"candidate {candidate.id} is {candidate.status}: there is nothing to cancel")
    if not head_is_alive(layout.root):
        _cancel_without_head(layout, candidate)
    else:
        write_cancel_request(layout, candidate.id)
        deadline = time.monotonic() + PATIENCE_S
        while candidate.id in read_cancel_requests(layout):
            if time.monotonic() > deadline:
                raise UserError(
                    f"the head has not answered within {PATIENCE_S:.0f} s; it cancels once it sees the request"
                )
            time.sleep(0.2)
    click.echo(
        f"cancelled candidate {candidate.id:04d}; see: asiarch-hpc show {candidate.id} --run {layout.root}"
    )


def _cancel_without_head(layout: RunLayout, candidate: Candidate) -> None:
    with Journal(layout.root) as journal:
        state = CampaignState.replay(read_journal(layout.root))
        jobs = [trial.job for key, trial in state.under_way.items() if key[0] == candidate.id]
        on_slurm = read_settings(layout.config).executor == "slurm"
        if jobs and on_slurm and run_command(["scancel", *jobs]) is None:
            raise UserError(f"scancel failed for jobs {' '.join(jobs)}; try it by hand")
        journal.append("cancelled", candidate=candidate.id, reason="cancelled by a person")
