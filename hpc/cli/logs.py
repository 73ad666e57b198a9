"""`asiarch-hpc logs`: what trials printed, and why those that failed did."""

import json
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from asiarch.hpc.cli.lookup import get_candidate, log_path, script_path
from asiarch.hpc.cli.options import run_option
from asiarch.hpc.failures import POLICIES, harmless
from asiarch.hpc.journal import JournalTail, read_journal
from asiarch.hpc.layout import RunLayout, find_run
from asiarch.hpc.state import CampaignState, Candidate, Trial

TAIL_BYTES = 4000
FOLLOW_S = 0.5
LAST_LINES_S = 2.0  # a log's end may come after the trial's result
EXAMPLES = 3  # different ones for each cause
MORE = 20
CONTROL = re.compile(r"[^\S\n\t ]|[\x00-\x08\x0e-\x1f\x7f-\x9f]")


@click.command()
@click.argument("candidate_id", metavar="[ID]", type=int, required=False)
@run_option
@click.option("--failed", is_flag=True, help="Only what failed, grouped by cause.")
@click.option("--follow", is_flag=True, help="Go on printing as the trials write, until they end or Ctrl-C.")
def logs(candidate_id: int | None, run_dir: Path | None, failed: bool, follow: bool) -> None:
    """Show the logs of a candidate's trials, or of what failed in the whole campaign."""
    layout = find_run(run_dir)
    if follow:
        try:
            _follow(layout, candidate_id)
        except KeyboardInterrupt:
            return
        return
    state = CampaignState.replay(read_journal(layout.root))
    if failed or candidate_id is None:
        _print_failures(layout, state, candidate_id)
    else:
        _print_candidate(layout, get_candidate(state, candidate_id))


@dataclass(frozen=True)
class Failure:
    """One trial that failed."""

    candidate: int
    rung: int
    seed: int
    trial: Trial

    @property
    def kind(self) -> str:
        """What failures of one kind have in common: their words, but for numbers."""
        return re.sub(r"\d+", "#", self.trial.detail)


def _print_failures(layout: RunLayout, state: CampaignState, only: int | None) -> None:
    chosen = [get_candidate(state, only)] if only is not None else list(state.candidates.values())
    causes: dict[str, list[Failure]] = defaultdict(list)
    for candidate in chosen:
        for (rung, seed), trial in sorted(candidate.trials.items()):
            if trial.status == "failed":
                causes[trial.cause].append(Failure(candidate.id, rung, seed, trial))
    refused = [candidate for candidate in chosen if candidate.status == "refused"]
    if not causes and not refused:
        click.echo("nothing failed" if only is None else f"nothing failed in candidate {only}")
    for cause, failures in sorted(causes.items(), key=lambda item: -len(item[1])):
        _print_cause(layout, cause, failures)
    interrupted = Counter(
        trial.cause for c in chosen for trial in c.trials.values() if trial.cause and trial.status != "failed"
    )
    if interrupted:
        counts = ", ".join(f"{count} {cause}" for cause, count in interrupted.most_common())
        click.echo(f"interrupted, and tried again or done since: {counts}")
    if refused:
        _print_refused(layout, refused)


def _print_cause(layout: RunLayout, cause: str, failures: Sequence[Failure]) -> None:
    """The cause, and for each of its commonest kinds one trial: its words, its lines, where to read on."""
    click.echo(f"{len(failures)} failed by {cause} ({_policy(cause)})")
    kinds: dict[str, list[Failure]] = defaultdict(list)
    for failure in failures:
        kinds[failure.kind].append(failure)
    ordered = sorted(kinds.values(), key=len, reverse=True)
    for alike in ordered[:EXAMPLES]:
        first = alike[0]
        click.echo(f"  {first.candidate:04d} rung {first.rung} seed {first.seed}: {first.trial.detail}")
        for line in _telling_lines(layout, first):
            click.echo(f"       | {line}")
        _print_places(layout, first)
        _print_more(alike[1:], "likewise")
    _print_more([failure for alike in ordered[EXAMPLES:] for failure in alike], "others")


def _print_more(failures: Sequence[Failure], word: str) -> None:
    if failures:
        numbers = sorted({f"{failure.candidate:04d}" for failure in failures})
        rest = " ..." if len(numbers) > MORE else ""
        click.echo(f"       {len(failures)} {word}: {' '.join(numbers[:MORE])}{rest}")


def _print_refused(layout: RunLayout, refused: Sequence[Candidate]) -> None:
    checks: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in refused:
        checks[candidate.refused_by].append(candidate)
    click.echo(f"{len(refused)} refused by the checker")
    for check, candidates in sorted(checks.items(), key=lambda item: -len(item[1])):
        first = candidates[0]
        click.echo(f"  {len(candidates)} by {check}, such as {first.id:04d}: {first.reason}")
        click.echo(f"       {layout.check(first.id)}")


def _policy(cause: str) -> str:
    words = {"repair": "the program's fault", "give_up": "not tried again"}
    return words.get(POLICIES.get(cause, "give_up"), "tried again, in vain")  # type: ignore[call-overload]


def _telling_lines(layout: RunLayout, failure: Failure) -> list[str]:
    """Where in the program it was raised, as the trial's record has it; else the last words of its log."""
    try:
        path = layout.trial(failure.candidate, failure.rung, failure.seed).failure
        frames = str(json.loads(path.read_bytes()[:100_000])["traceback"]).split("\n  File ")
    except (OSError, ValueError, KeyError, TypeError):
        lines = [line for line in tail(stderr_path(layout, failure)).splitlines() if line.strip()]
        return [harmless(line) for line in lines[-2:]]
    own = [frame for frame in frames if "/architecture.py" in frame.partition("\n")[0]]
    lines = (own or frames)[-1].splitlines()
    return [harmless(line.strip()) for line in lines[:2]]


def _print_places(layout: RunLayout, failure: Failure) -> None:
    """Where to read on: both logs, and the script that sbatch was given."""
    names = (failure.candidate, failure.rung, failure.trial.job)
    for path in (log_path(layout, *names), stderr_path(layout, failure), script_path(layout, *names)):
        if path.exists():
            click.echo(f"       {path}")


def stderr_path(layout: RunLayout, failure: Failure) -> Path:
    """Where submitit writes a task's standard error."""
    return log_path(layout, failure.candidate, failure.rung, failure.trial.job).with_suffix(".err")


def _print_candidate(layout: RunLayout, candidate: Candidate) -> None:
    if not candidate.trials:
        click.echo(f"candidate {candidate.id} has no trials: it is {candidate.status}. {candidate.reason}")
    for (rung, seed), trial in sorted(candidate.trials.items()):
        path = log_path(layout, candidate.id, rung, trial.job)
        click.echo(f"== {candidate.id:04d} rung {rung} seed {seed}: {trial.status} {trial.detail}\n   {path}")
        click.echo(tail(path))
        if trial.status == "failed":
            click.echo(tail(path.with_suffix(".err")))


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
    return _plain(text if start == 0 else "   ...\n" + text.partition("\n")[2])


def _plain(text: str) -> str:
    """Without what would move a terminal's cursor: a program that nobody has read wrote it."""
    return CONTROL.sub(" ", text)


def _follow(layout: RunLayout, only: int | None) -> None:
    """Print new lines of the running trials' logs; restarts and new trials are picked up by the way."""
    journal, state = JournalTail(layout.root), CampaignState()
    offsets: dict[Path, int] = {}
    until = float("inf")
    while time.monotonic() < until:
        for event in journal.read():
            state.apply(event)
        if only is not None:
            get_candidate(state, only)
        for path in _log_files(layout, state, only):
            offsets[path] = _print_from(path, offsets.get(path, 0))
        done = state.finished if only is None else state.candidates[only].settled
        if done:
            until = min(until, time.monotonic() + LAST_LINES_S)
        time.sleep(FOLLOW_S)


def _log_files(layout: RunLayout, state: CampaignState, only: int | None) -> Iterator[Path]:
    for candidate in state.unsettled if only is None else [state.candidates[only]]:
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
    click.echo(_plain(data[:complete].decode(errors="replace")), nl=False)
    return offset + complete
