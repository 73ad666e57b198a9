"""`asiarch-hpc stop`: end a campaign's head, gently or at once."""

import time
from pathlib import Path

import click

from asiarch.hpc.cli.options import run_option
from asiarch.hpc.config import load_frozen
from asiarch.hpc.journal import head_is_alive, read_journal
from asiarch.hpc.layout import find_run
from asiarch.hpc.slurm_states import run_command
from asiarch.hpc.state import CampaignState
from asiarch.hpc.stop_request import write_stop_request
from asiarch.models.errors import UserError

PATIENCE_S = 120.0


@click.command()
@run_option
@click.option("--now", is_flag=True, help="Don't wait for trials: they write a checkpoint and end.")
def stop(run_dir: Path | None, now: bool) -> None:
    """Let the head stop once the trials under way are done, or with --now at once. `run` goes on from there.

    Without --now this returns as soon as the head has been asked; `status` shows when it has stopped.
    """
    layout = find_run(run_dir)
    again = f"`asiarch-hpc run --run {layout.root}` goes on"
    if not head_is_alive(layout.root):
        jobs = _jobs_under_way(CampaignState.replay(read_journal(layout.root)))
        if now and jobs and load_frozen(layout.config).executor == "slurm":
            if run_command(["scancel", *jobs]) is None:
                raise UserError(f"scancel failed for jobs {' '.join(jobs)}; try it by hand")
            click.echo(
                f"no head was running; cancelled {len(jobs)} jobs, their checkpoints are kept; {again}"
            )
            return
        raise UserError(f"{layout.root}: no head is running, so there is nothing to stop")
    write_stop_request(layout, "now" if now else "drain")
    if not now:
        click.echo(
            f"asked: nothing new is begun, and the head stops when all trials under way are done; {again}"
        )
        return
    deadline = time.monotonic() + PATIENCE_S
    while head_is_alive(layout.root):
        if time.monotonic() > deadline:
            raise UserError(
                f"the head has not stopped within {PATIENCE_S:.0f} s; it does so once it sees the request"
            )
        time.sleep(0.2)
    click.echo(f"stopped; {again}")


def _jobs_under_way(state: CampaignState) -> list[str]:
    return [
        trial.job
        for candidate in state.unsettled
        for trial in candidate.trials.values()
        if trial.status == "submitted"
    ]
