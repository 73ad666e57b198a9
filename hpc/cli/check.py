"""`asiarch-hpc check FILE`: whether a program keeps the candidate's contract."""

from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape

from asiarch.hpc.check import run_check
from asiarch.models.check import CheckReport, CheckResult, CheckSettings

MARKS = {"pass": "[green]pass[/green]", "fail": "[bold red]FAIL[/bold red]", "skip": "[yellow]skip[/yellow]"}


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="A campaign's YAML: check at its model's sizes. Without it the sizes are small.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.pass_context
def check(context: click.Context, file: Path, config: Path | None, as_json: bool) -> None:
    """Check by running it that FILE keeps the candidate's contract.

    Exit code 0: accepted. 1: refused. 2: the check could not be run.
    """
    report = run_check(file) if config is None else _check_for(file, config)
    if as_json:
        click.echo(report.to_json(), nl=False)
    else:
        print_report(report, Console())
    context.exit(0 if report.accepted else 1)


def _check_for(file: Path, config: Path) -> CheckReport:
    # imported late: most checks need no configuration
    from asiarch.hpc.checking import check_for
    from asiarch.hpc.config import load_config

    return check_for(file, load_config(config), CheckSettings().vocab_size)


def print_report(report: CheckReport, console: Console) -> None:
    """A line for each check, the reason under each refusal, and a line with the verdict."""
    for result in report.checks:
        console.print(_line(result), soft_wrap=True, highlight=False)
        if result.message and result.was_run:
            console.print(f"      {escape(result.message)}", soft_wrap=True, highlight=False)
    if report.accepted:
        verdict = "[green]accepted[/green]"
    else:
        verdict = "[bold red]refused[/bold red] by " + ", ".join(check.name for check in report.refusals)
    console.print(
        f"{escape(report.file)}: {verdict}   {report.seconds:.1f} s", soft_wrap=True, highlight=False
    )


def _line(result: CheckResult) -> str:
    if not result.was_run:
        return f"{MARKS['skip']}  {result.name:<16}  {escape(result.message)}"
    measured = "  ".join(f"{name} {_short(value)}" for name, value in result.measured.items())
    mark = MARKS["pass" if result.passed else "fail"]
    return f"{mark}  {result.name:<16}  {escape(measured)}".rstrip()


def _short(value: object) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value)) or "none"
    return str(value)
