"""`asiarch-hpc stop`: end a campaign's head, gently or at once."""

import time
from pathlib import Path

import click

from asiarch.hpc.cli.options import run_option
from asiarch.hpc.journal import Journal, head_is_alive, read_journal
from asiarch.hpc.layout import RunLayout, find_run
from asiarch.hpc.settings import read_settings
from asiarch.hpc.slurm_states import run_command
from asiarch.hpc.state import CampaignState, interruption
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
        if now and read_settings(layout.config).executor == "slurm" and (count := _cancel_jobs(layout)):
            click.echo(f"no head was running; cancelled {count} jobs, their checkpoints are kept; {again}")
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


def _cancel_jobs(layout: RunLayout) -> int:
    """Cancel what the last head left running, and say so in the journal; how many jobs there were."""
    with Journal(layout.root) as journal:
        trials = CampaignState.replay(read_journal(layout.root)).under_way
        jobs = [trial.job for trial in trials.values()]
        if jobs and run_command(["scancel", *jobs]) is None:
            raise UserError(f"scancel failed for jobs {' '.join(jobs)}; try it by hand")
        for key, trial in trials.items():
            journal.append("trial_interrupted", **interruption(key, trial))
    return len(jobs)
