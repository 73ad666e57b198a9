"""`asiarch-hpc logs`: what trials printed, and why those that failed did."""

import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import click

from asiarch.hpc.cli.options import run_option
from asiarch.hpc.cli.show import get_candidate, log_path
from asiarch.hpc.failures import POLICIES
from asiarch.hpc.journal import read_journal
from asiarch.hpc.layout import RunLayout, find_run
from asiarch.hpc.state import CampaignState, Candidate, Trial

TAIL_BYTES = 4000
FOLLOW_S = 0.5
EXAMPLES = 3


@click.command()
@click.argument("candidate_id", metavar="[ID]", type=int, required=False)
@run_option
@click.option("--failed", is_flag=True, help="Only what failed, grouped by cause.")
@click.option("--follow", is_flag=True, help="Go on printing as the trials write, until they end or Ctrl-C.")
def logs(candidate_id: int | None, run_dir: Path | None, failed: bool, follow: bool) -> None:
    """Show the logs of a candidate's trials, or of what failed in the whole campaign."""
    layout = find_run(run_dir)
    state = CampaignState.replay(read_journal(layout.root))
    if follow:
        try:
            _follow(layout, candidate_id)
        except KeyboardInterrupt:
            return
    elif failed or candidate_id is None:
        _print_failures(layout, state, candidate_id)
    else:
        _print_candidate(layout, get_candidate(state, candidate_id))


def _print_failures(layout: RunLayout, state: CampaignState, only: int | None) -> None:
    groups: dict[str, list[tuple[int, int, int, Trial]]] = defaultdict(list)
    chosen = [get_candidate(state, only)] if only is not None else list(state.candidates.values())
    for candidate in chosen:
        for (rung, seed), trial in sorted(candidate.trials.items()):
            if trial.status == "failed":
                groups[trial.cause].append((candidate.id, rung, seed, trial))
    interrupted = Counter(
        trial.cause for c in chosen for trial in c.trials.values() if trial.cause and trial.status != "failed"
    )
    refused = [candidate for candidate in chosen if candidate.status == "refused"]
    if not groups and not refused:
        click.echo("nothing failed" if only is None else f"nothing failed in candidate {only}")
    for cause, failures in sorted(groups.items(), key=lambda item: -len(item[1])):
        click.echo(f"{len(failures)} failed by {cause} ({_policy(cause)})")
        for candidate_id, rung, seed, trial in failures[:EXAMPLES]:
            click.echo(f"  {candidate_id:04d} rung {rung} seed {seed}: {trial.detail}")
            _print_places(layout, candidate_id, rung, trial.job)
        if len(failures) > EXAMPLES:
            others = sorted({f"{f[0]:04d}" for f in failures[EXAMPLES:]})
            click.echo(f"  and {len(failures) - EXAMPLES} more: {' '.join(others[:20])}")
    if interrupted:
        causes = ", ".join(f"{count} {cause}" for cause, count in interrupted.most_common())
        click.echo(f"interrupted, and tried again or done since: {causes}")
    if refused:
        click.echo(f"{len(refused)} refused by the checker")
        for candidate in refused[:EXAMPLES]:
            click.echo(f"  {candidate.id:04d}: {candidate.reason}\n       {layout.check(candidate.id)}")


def _policy(cause: str) -> str:
    words = {"repair": "the program's fault", "give_up": "not tried again"}
    return words.get(POLICIES.get(cause, "give_up"), "tried again, in vain")  # type: ignore[call-overload]


def _print_places(layout: RunLayout, candidate: int, rung: int, job: str) -> None:
    """Where to read on: both logs, and the script that sbatch was given."""
    out = log_path(layout, candidate, rung, job)
    places = [
        out,
        out.with_suffix(".err"),
        layout.jobs(candidate, rung) / f"{job.split('_')[0]}_submission.sh",
    ]
    for path in places:
        if path.exists():
            click.echo(f"       {path}")


def _print_candidate(layout: RunLayout, candidate: Candidate) -> None:
    if not candidate.trials:
        click.echo(f"candidate {candidate.id} has no trials: it is {candidate.status}. {candidate.reason}")
    for (rung, seed), trial in sorted(candidate.trials.items()):
        path = log_path(layout, candidate.id, rung, trial.job)
        click.echo(f"== {candidate.id:04d} rung {rung} seed {seed}: {trial.status} {trial.detail}\n   {path}")
        click.echo(tail(path))
        if trial.status == "failed":
            click.echo(tail(stderr_path(layout, candidate.id, rung, trial.job)))


def stderr_path(layout: RunLayout, candidate: int, rung: int, job: str) -> Path:
    """Where submitit writes a task's standard error."""
    return log_path(layout, candidate, rung, job).with_suffix(".err")


def tail(path: Path) -> str:
    """The last lines of a log, or a line that says that there is none."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            start = max(0, file.tell() - TAIL_BYTES)
            file.seek(start)
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return f"   (no log yet at {path})"
    return text if start == 0 else "   ...\n" + text.partition("\n")[2]


def _follow(layout: RunLayout, only: int | None) -> None:
    """Print new lines of the running trials' logs; restarts and new trials are picked up by the way."""
    offsets: dict[Path, int] = {}
    while True:
        state = CampaignState.replay(read_journal(layout.root))
        if only is not None:
            get_candidate(state, only)
        for path in _log_files(layout, state, only):
            offsets[path] = _print_from(path, offsets.get(path, 0))
        done = state.finished if only is None else state.candidates[only].settled
        if done:
            return
        time.sleep(FOLLOW_S)


def _log_files(layout: RunLayout, state: CampaignState, only: int | None) -> Iterator[Path]:
    for candidate in state.candidates.values():
        if only is None and candidate.settled:
            continue
        if only in (None, candidate.id):
            for (rung, _), trial in candidate.trials.items():
                yield log_path(layout, candidate.id, rung, trial.job)


def _print_from(path: Path, offset: int) -> int:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read()
    except FileNotFoundError:
        return offset
    complete = data.rfind(b"\n") + 1
    click.echo(data[:complete].decode(errors="replace"), nl=False)
    return offset + complete
