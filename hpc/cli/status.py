"""`asiarch-hpc status`: what runs, what waits, what leads, what failed and why, in one screen."""

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from asiarch.hpc.cli.options import console, json_option, run_option
from asiarch.hpc.cli.ranking import ranking_table
from asiarch.hpc.journal import JournalTail, read_journal
from asiarch.hpc.layout import RunLayout, find_run
from asiarch.hpc.state import CampaignState
from asiarch.hpc.status import RunningTrial, Status, read_status
from asiarch.results.yields import COUNTS, Yields

LEADERS = 5
WATCH_S = 2.0


@click.command()
@run_option
@json_option
@click.option("--watch", is_flag=True, help="Show it again every 2 seconds, until Ctrl-C or the end.")
def status(run_dir: Path | None, as_json: bool, watch: bool) -> None:
    """Show how a campaign stands. Only reads; works while the head is down."""
    layout = find_run(run_dir)
    if watch:
        with suppress(KeyboardInterrupt):
            _watch(layout, console())
        return
    state = CampaignState.replay(read_journal(layout.root))
    if as_json:
        click.echo(json.dumps(read_status(layout, state).to_json(), indent=1))
    else:
        console().print(render(read_status(layout, state, LEADERS), layout))


def _watch(layout: RunLayout, output: Console) -> None:
    moments = _moments(layout)
    if not output.is_terminal:
        for current in moments:
            output.print(render(current, layout))
        return
    with Live(render(next(moments), layout), console=output, auto_refresh=False) as live:
        for current in moments:
            live.update(render(current, layout), refresh=True)


def _moments(layout: RunLayout) -> Iterator[Status]:
    """The status every few seconds, until the campaign is finished."""
    journal, state = JournalTail(layout.root), CampaignState()
    while True:
        for event in journal.read():
            state.apply(event)
        current = read_status(layout, state, LEADERS)
        yield current
        if current.head == "finished":
            return
        time.sleep(WATCH_S)


def render(current: Status, layout: RunLayout) -> RenderableType:
    """The screen."""
    lines: list[RenderableType] = [_head_line(current), _count_line(current), _compute_line(current)]
    lines += [*_pending_lines(current), *_gpu_lines(current)]
    lines += [_running_line(trial) for trial in current.running]
    if current.ranking.rows:
        lines += [Text(), _leaders(current)]
        made = f"; as of {current.ranked}" if current.ranked else ""
        note = f"* beyond noise, corrected over {current.ranking.family_size} candidates{made}"
        lines.append(Text(note, style="dim"))
    if current.yields.proposers:
        lines += [Text(), yields_table(current.yields)]
    lines += [Text(), *_failure_lines(current), _next_line(current, layout)]
    return Group(*lines)


def _head_line(current: Status) -> Text:
    left = "" if not current.left_s else f", about {duration(current.left_s)} left (until {current.ends})"
    colour = {"running": "green", "finished": "green", "stopped": "yellow"}[current.head]
    detail = f" ({current.head_detail})" if current.head_detail else ""
    return Text.assemble(
        (current.name, "bold"),
        "   ",
        (current.head, colour),
        f"{detail} after {duration(current.elapsed_s)}{left}",
    )


def _count_line(current: Status) -> Text:
    by_status = ", ".join(f"{n} {name}" for name, n in sorted(current.candidates.items()))
    trials = ", ".join(f"{n} {name}" for name, n in current.trials.items())
    return Text(
        f"candidates   {current.proposed} of {current.total_candidates} proposed ({by_status or 'none yet'})\n"
        f"trials       {trials}"
    )


def _compute_line(current: Status) -> Text:
    available = current.elapsed_s * current.slots
    share = f"{current.training_s / available:.0%}" if available else "-"
    return Text(
        f"compute      {duration(current.trial_s)} in finished trials: training {duration(current.training_s)} "
        f"({share} of {current.slots} slots' time), evaluation {duration(current.evaluation_s)}, "
        f"start-up {duration(current.startup_s)}"
    )


def _pending_lines(current: Status) -> list[Text]:
    lines = []
    if current.submission_refused:
        word = "refuses, and is asked ever less often" if current.head == "running" else "refused"
        lines.append(Text(f"sbatch       {word}: {current.submission_refused}", "yellow"))
    if not current.pending:
        return lines
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(current.pending.items()))
    start = f"; Slurm expects the first to start at {current.next_start}" if current.next_start else ""
    return [*lines, Text(f"pending      {reasons}{start}")]


def _gpu_lines(current: Status) -> list[Text]:
    """What was used of the budget, and how far that is enough at this rate."""
    allowed, used = current.gpu_hours_allowed, current.gpu_hours
    if allowed is None and not used:
        return []
    line = f"GPU-hours    {used:,.2f}" + ("" if allowed is None else f" of {allowed:,g}")
    if current.usage is not None:
        line += f" (heads {current.usage.heads:,.2f}, in runs cut short {current.usage.cut_short:,.2f})"
    if allowed is not None and 0 < used < allowed:
        line += f"; at this rate used up in {duration(current.elapsed_s * (allowed - used) / used)}"
    return [Text(line)]


def _running_line(trial: RunningTrial) -> Text:
    progress = trial.progress
    done = f"{progress.step / progress.steps:4.0%}" if progress.steps else "    "
    loss = "" if progress.loss is None else f"  loss {progress.loss:.4f}"
    speed = "" if progress.tokens_per_s is None else f"  {progress.tokens_per_s / 1000:.1f}k tokens/s"
    return Text(
        f"running      {trial.candidate:04d} rung {trial.rung} seed {trial.seed}  {progress.phase} {done}{loss}{speed}"
    )


def _leaders(current: Status) -> Table:
    return ranking_table(current.ranking.rows[:LEADERS], current.reference, console().width)


def yields_table(yields: Yields) -> Table:
    """A row for each proposer, and for each origin of ideas, with its shares; it fits 80 columns.

    The rates count candidates that beat the reference.
    """
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    on_gpus = any(one.gpu_hours for one in yields.proposers)
    titles = ("proposed", "accepted", "trained", ">parent", "*parent", "*ref")
    table.add_column("proposer", no_wrap=True)
    for title in (*titles, "*/acc.", "*/GPU-h" if on_gpus else "*/hour"):
        table.add_column(title, justify="right", no_wrap=True)
    for one, shares in [*((one, {}) for one in yields.proposers), *yields.shares()]:
        counts = (_count(getattr(one, name), shares.get(name)) for name in COUNTS)
        hourly = one.for_each_gpu_hour if on_gpus else one.for_each_trial_hour
        rates = ("-" if rate is None else f"{rate:.3g}" for rate in (one.for_each_accepted, hourly))
        table.add_row(f"  {one.name}" if shares else one.name, *counts, *rates)
    return table


def _count(number: int, share: float | None) -> str:
    return f"{number}" if share is None else f"{number} {share:.0%}"


def _failure_lines(current: Status) -> list[Text]:
    lines = []
    if current.failures:
        lines.append(
            Text("failed       " + "   ".join(f"{n} {cause}" for cause, n in current.failures.items()))
        )
    if current.refused:
        lines.append(
            Text("refused by   " + "   ".join(f"{n} {check}" for check, n in current.refused.items()))
        )
    return lines


def _next_line(current: Status, layout: RunLayout) -> Text:
    where = f"--run {layout.root}"
    if current.head == "stopped":
        return Text(f"next         asiarch-hpc run {where}", style="bold")
    hints = ["ranking", "show ID"] + (["logs --failed"] if current.failures else [])
    return Text("next         " + "   ".join(f"asiarch-hpc {hint} {where}" for hint in hints), style="dim")


def duration(seconds: float) -> str:
    """For people: `48 s`, `12 min 05 s`, `3 h 20 min`, `2 d 04 h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"
