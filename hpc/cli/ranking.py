"""`asiarch-hpc ranking`: who leads, by how much, and whether that is more than noise."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import click
from rich.table import Table

from asiarch.hpc.cli.options import console, json_option, run_option
from asiarch.hpc.journal import read_journal
from asiarch.hpc.layout import RunLayout, find_run
from asiarch.hpc.standings import current_ranking
from asiarch.hpc.state import CampaignState
from asiarch.results.ranking import RECALL_TASK, Ranking, RankingRow

WIDE = 165  # columns of a terminal that shows the whole table


@click.command()
@run_option
@json_option
@click.option("-n", "--limit", default=20, show_default=True, help="How many rows.")
def ranking(run_dir: Path | None, as_json: bool, limit: int) -> None:
    """Rank the candidates that have results. Only reads; works while a campaign runs and after."""
    layout = find_run(run_dir)
    if as_json:
        state = CampaignState.replay(read_journal(layout.root))
        click.echo(json.dumps(current_ranking(layout, state).to_json(), indent=1))
    else:
        print_ranking(layout, limit)


def print_ranking(layout: RunLayout, limit: int) -> None:
    """The ranking as a table, with a legend that says how to read it."""
    state = CampaignState.replay(read_journal(layout.root))
    table = current_ranking(layout, state)
    if not table.rows:
        click.echo("no candidate has all its seeds yet; see: asiarch-hpc status")
        return
    reference = state.candidates[table.reference].name
    output = console()
    output.print(ranking_table(table.rows[:limit], reference, output.width))
    output.print(legend(table, reference), soft_wrap=True)
    significant = [row for row in table.rows if row.significant]
    output.print(_verdict(significant, reference, layout), soft_wrap=True, markup=False)


def ranking_table(rows: Sequence[RankingRow], reference: str, width: int) -> Table:
    """One row a candidate, losses in nats a token; a terminal narrower than `WIDE` gets the main columns."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    chosen = [column for column in _columns(reference) if width >= WIDE or column.narrow]
    for column in chosen:
        # ids are what people type next: whatever else is cut in a narrow terminal, they are not
        least = 4 if column.title in ("rank", "id") else None
        table.add_column(column.title, justify=column.justify, no_wrap=True, min_width=least)
    for row in rows:
        table.add_row(*(column.cell(row) for column in chosen))
    return table


@dataclass(frozen=True)
class _Column:
    title: str
    cell: Callable[[RankingRow], str]
    justify: Literal["left", "right"] = "right"
    narrow: bool = False


def _columns(reference: str) -> list[_Column]:
    return [
        _Column("rank", lambda row: str(row.rank), narrow=True),
        _Column("id", lambda row: f"{row.candidate:04d}", narrow=True),
        _Column("name", lambda row: row.name, "left", narrow=True),
        _Column("rung", lambda row: str(row.rung)),
        _Column("test loss +-sd", _loss, narrow=True),
        _Column(f"vs {reference} (95% interval)", _difference, "left", narrow=True),
        _Column("p adj.", lambda row: "" if row.p_adjusted is None else f"{row.p_adjusted:.4f}"),
        _Column("fitness", lambda row: f"{row.fitness:.3f}", narrow=True),
        _Column("recall +-error", _recall, narrow=True),
        _Column("tokens/s", lambda row: f"{row.tokens_per_s / 1000:.1f}k"),
        _Column("parameters", lambda row: f"{row.parameters:,}"),
        _Column("origin", lambda row: row.origin, "left"),
    ]


def _loss(row: RankingRow) -> str:
    deviation = "" if row.test_loss_sd is None else f" +-{row.test_loss_sd:.4f}"
    return f"{row.test_loss:.4f}{deviation}"


def _recall(row: RankingRow) -> str:
    result = row.tasks.get(RECALL_TASK)
    return "" if result is None else f"{result.score:.3f} +-{result.standard_error:.3f}"


def _difference(row: RankingRow) -> str:
    if row.difference is None:
        return "(reference)"
    if row.low is None or row.high is None:
        return f"{row.difference:+.4f}"
    mark = " *" if row.significant else ""
    return f"{row.difference:+.4f} \\[{row.low:+.4f}, {row.high:+.4f}]{mark}"


def legend(table: Ranking, reference: str) -> str:
    """What the columns mean, a line each."""
    tasks = bool(table.rows[0].tasks)
    return (
        f"vs {reference}: difference of the test loss, paired over {len(table.seeds)} seeds, with its 95% interval "
        "(lower is better).\n"
        f"*: adjusted p < {table.alpha:g} (Benjamini-Hochberg over all {table.family_size} candidates with results). "
        f"Validation text{' and tasks' if tasks else ''} chose; the test text chose nothing.\n"
        + _measured(table)
        + ("fitness: mean of the loss part and the tasks' part" if tasks else "fitness: the loss part")
        + (", no judge took part." if table.judge == "none" else " and the judge's.")
    )


def _measured(table: Ranking) -> str:
    """How much was measured: the same for all, since all are measured on the reference's tasks."""
    row = table.rows[0]
    asked = "".join(f", {name} {result.n:,} answers" for name, result in row.tasks.items())
    return (
        f"Measured for each seed: test loss on {row.test_windows:,} windows of text, validation loss on "
        f"{row.validation_windows:,}{asked}; +-error is the standard error of that.\n"
    )


def _verdict(significant: Sequence[RankingRow], reference: str, layout: RunLayout) -> str:
    if not significant:
        return f"\nNo candidate beats {reference} on test loss beyond noise so far."
    beside = " (look at the tasks beside it)" if significant[0].tasks else ""
    lines = [f"\n{len(significant)} beat {reference} on test loss beyond noise{beside}:"]
    lines += [f"  {row.candidate:04d}  {layout.root / row.path}" for row in significant]
    return "\n".join(lines)
