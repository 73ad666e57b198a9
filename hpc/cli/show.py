"""`asiarch-hpc show ID`: one candidate, from its motivation to its results."""

import difflib
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.syntax import Syntax
from rich.table import Table

from asiarch.hpc.cli.lookup import get_candidate, log_path
from asiarch.hpc.cli.options import console, json_option, run_option
from asiarch.hpc.journal import read_journal
from asiarch.hpc.layout import RunLayout, find_run
from asiarch.hpc.proposals import read_proposal
from asiarch.hpc.standings import current_ranking
from asiarch.hpc.state import CampaignState, Candidate
from asiarch.results.trial import TrialSummary


@click.command()
@click.argument("candidate_id", metavar="ID", type=int)
@run_option
@json_option
@click.option(
    "--trace", is_flag=True, help="Tell how it came about: what its LLM was asked, said and mended."
)
def show(candidate_id: int, run_dir: Path | None, as_json: bool, trace: bool) -> None:
    """Show a candidate: motivation, program, what changed against its parent, results, logs."""
    layout = find_run(run_dir)
    state = CampaignState.replay(read_journal(layout.root))
    candidate = get_candidate(state, candidate_id)
    if as_json:
        click.echo(json.dumps(_to_json(layout, state, candidate), indent=1))
        return
    if trace:
        from asiarch.hpc.cli.trace import print_trace

        print_trace(layout, candidate_id)
        return
    _print_story(layout, candidate)
    _print_results(layout, state, candidate)


def parent_diff(layout: RunLayout, candidate: Candidate) -> str:
    """A unified diff from the parent's program to this one; empty without a parent."""
    if candidate.parent is None:
        return ""
    before = layout.program(candidate.parent).read_text().splitlines()
    after = layout.program(candidate.id).read_text().splitlines()
    names = (f"{candidate.parent:04d}/architecture.py", f"{candidate.id:04d}/architecture.py")
    return "\n".join(difflib.unified_diff(before, after, *names, lineterm=""))


def _print_story(layout: RunLayout, candidate: Candidate) -> None:
    output = console()
    proposal = read_proposal(layout.proposal(candidate.id))
    output.print(
        f"[bold]{candidate.id:04d} {candidate.name}[/bold]   {candidate.status}   by {candidate.origin}"
    )
    if candidate.reason:
        output.print(candidate.reason, markup=False)
    output.print(f"\n{proposal['motivation']}\n", markup=False)
    output.print(Syntax(layout.program(candidate.id).read_text(), "python", background_color="default"))
    difference = parent_diff(layout, candidate)
    if difference:
        output.print(f"\n[bold]against its parent {candidate.parent:04d}[/bold]")
        output.print(Syntax(difference, "diff", background_color="default"))


def _print_results(layout: RunLayout, state: CampaignState, candidate: Candidate) -> None:
    output = console()
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("rung", "seed", "status", "validation loss", "test loss", "tokens/s", "log"):
        table.add_column(name, no_wrap=True)
    for (rung, seed), trial in sorted(candidate.trials.items()):
        summary = trial.summary
        numbers = ("", "", "")
        if summary is not None:
            numbers = (
                f"{summary.validation_loss:.4f} +-{summary.validation_error:.4f}",
                f"{summary.test_loss:.4f} +-{summary.test_error:.4f}",
                f"{summary.tokens_per_s:.0f}",
            )
        state_text = trial.status if not trial.cause else f"{trial.status} ({trial.cause})"
        table.add_row(
            str(rung), str(seed), state_text, *numbers, str(log_path(layout, candidate.id, rung, trial.job))
        )
    output.print(table)
    _print_scores(candidate)
    _print_speed(layout, candidate)
    for row in current_ranking(layout, state).rows:
        if row.candidate == candidate.id and row.low is not None:
            output.print(
                f"rank {row.rank}: difference to the reference {row.difference:+.4f} "
                f"[{row.low:+.4f}, {row.high:+.4f}], adjusted p {row.p_adjusted:.4f}, fitness {row.fitness:.3f}",
                markup=False,
            )
    output.print(f"program: {layout.program(candidate.id)}", markup=False, soft_wrap=True)


def _print_scores(candidate: Candidate) -> None:
    """A row a task, a column a seed of the last rung that has results; n is the number of examples of each."""
    summaries = _at_last_rung(candidate)
    tasks = sorted({task for summary in summaries for task in summary.tasks})
    if not tasks:
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("task", "n", *(f"seed {summary.key.seed}" for summary in summaries)):
        table.add_column(name, justify="left" if name == "task" else "right", no_wrap=True)
    for task in tasks:
        results = [summary.tasks.get(task) for summary in summaries]
        n = min(result.n for result in results if result is not None)
        cells = ["" if r is None else f"{r.score:.3f} +-{r.standard_error:.3f}" for r in results]
        table.add_row(task, f"{n:,}", *cells)
    console().print(table)


def _at_last_rung(candidate: Candidate) -> list[TrialSummary]:
    summaries = candidate.summaries()
    last = max((summary.key.rung for summary in summaries), default=None)
    return sorted((s for s in summaries if s.key.rung == last), key=lambda summary: summary.key)


def _print_speed(layout: RunLayout, candidate: Candidate) -> None:
    """Tokens a second and memory at each length: means over the seeds of the last rung that has results."""
    rows = speed_rows(layout, candidate)
    if not rows:
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("length", "training tokens/s", "memory", "decoding tokens/s", "memory"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        cells = [f"{row['length']:,.0f}"]
        for kind in ("train", "decode"):
            rate, memory = row[f"{kind}_tokens_per_s"], row[f"{kind}_memory_bytes"]
            no_rate = "no cache" if kind == "decode" else ""
            error = row[f"{kind}_standard_error"]
            cells.append(no_rate if math.isnan(rate) else f"{rate:,.0f} +-{error:,.0f}")
            cells.append("" if math.isnan(memory) else f"{memory / 1e6:,.1f} MB")
        table.add_row(*cells)
    console().print(table)


def speed_rows(layout: RunLayout, candidate: Candidate) -> list[dict[str, float]]:
    """The columns of `SpeedTable` at each length that all seeds of the last rung with results have.

    Means over the seeds; an error is that of the mean, from the repeats of each.
    """
    # h5py takes a while to import, and the rest of `show` needs none of it
    from asiarch.results.schema import BadResult, read_trial

    last = _at_last_rung(candidate)
    try:
        tables = [read_trial(summary.key.result_path(layout.root)).speed for summary in last]
    except BadResult:  # damaged since it was collected: the journal still has what counts
        return []
    shared = sorted(set.intersection(*(set(table.length.tolist()) for table in tables))) if tables else []
    rows = []
    for length in shared:
        row = {}
        for name in vars(tables[0]):
            values = [float(vars(table)[name][table.length.tolist().index(length)]) for table in tables]
            spread = math.hypot(*values) if name.endswith("standard_error") else math.fsum(values)
            row[name] = spread / len(values)
        rows.append(row)
    return rows


def _to_json(layout: RunLayout, state: CampaignState, candidate: Candidate) -> dict[str, Any]:
    rows = [asdict(row) for row in current_ranking(layout, state).rows if row.candidate == candidate.id]
    return {
        "id": candidate.id,
        "status": candidate.status,
        "reason": candidate.reason,
        **read_proposal(layout.proposal(candidate.id)),
        "program": str(layout.program(candidate.id)),
        "diff": parent_diff(layout, candidate),
        "trials": [
            {
                "rung": rung,
                "seed": seed,
                "status": trial.status,
                "cause": trial.cause,
                "detail": trial.detail,
                "log": str(log_path(layout, candidate.id, rung, trial.job)),
                "summary": None if trial.summary is None else trial.summary.to_json(),
            }
            for (rung, seed), trial in sorted(candidate.trials.items())
        ],
        "speed": [
            {name: None if math.isnan(value) else value for name, value in row.items()}
            for row in speed_rows(layout, candidate)
        ],
        "ranking": rows[0] if rows else None,
    }
