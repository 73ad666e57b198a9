"""`asiarch-hpc doctor`: find what would fail before it costs a GPU-hour."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click

from asiarch.hpc.cli.options import json_option, run_option
from asiarch.hpc.config import CampaignConfig, load_config
from asiarch.hpc.doctor.findings import Finding
from asiarch.models.errors import UserError

MARKS = {"ok": ("ok     ", "green"), "warning": ("warning", "yellow"), "error": ("ERROR  ", "red")}


@click.command()
@click.argument("config", required=False, type=click.Path(path_type=Path))
@run_option
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="As for `run`.")
@click.option("--kernels", is_flag=True, help="Only the operators, against their definitions.")
@click.option("--job", is_flag=True, help="Also look at a compute node, by a job of a minute.")
@click.option("--patience", default=300, show_default=True, help="Seconds to wait for that job.")
@json_option
def doctor(
    config: Path | None,
    run_dir: Path | None,
    overrides: tuple[str, ...],
    kernels: bool,
    job: bool,
    patience: int,
    as_json: bool,
) -> None:
    """Examine this machine, and what the campaign CONFIG needs. Exit code 1 where something would fail."""
    settings = None if config is None else load_config(config, overrides)
    if job and (settings is None or settings.executor != "slurm"):
        raise UserError("--job looks at a node of a Slurm cluster: give a CONFIG with executor: slurm")
    folder = run_dir or Path("runs") / ("doctor" if settings is None else settings.name)
    findings = []
    for finding in _examine(settings, folder.resolve(), kernels, patience if job else 0):
        findings.append(finding)
        if not as_json:
            _print(finding)
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=1))
    if any(finding.level == "error" for finding in findings):
        raise SystemExit(1)


def _examine(
    config: CampaignConfig | None, folder: Path, kernels: bool, patience_s: float
) -> Iterator[Finding]:
    # imported here: torch takes seconds
    from asiarch.hpc.doctor.campaign import examine_campaign
    from asiarch.hpc.doctor.machine import examine_machine
    from asiarch.hpc.doctor.operators import examine_operators

    if kernels:
        yield from examine_operators()
        return
    yield from examine_machine()
    yield from examine_operators()
    if config is None:
        return
    yield from examine_campaign(config, folder)
    if config.llm.is_there:
        from asiarch.hpc.doctor.language_model import examine_language_model

        yield from examine_language_model(config.llm)
    if config.executor == "slurm":
        from asiarch.hpc.doctor.slurm import examine_slurm

        yield from examine_slurm(config)
        if patience_s:
            from asiarch.hpc.doctor.node import examine_node

            yield from examine_node(config, folder, patience_s)


def _print(finding: Finding) -> None:
    mark, colour = MARKS[finding.level]
    click.echo(f"{click.style(mark, fg=colour)}  {finding.what}: {finding.found}")
    if finding.remedy:
        click.echo(f"         -> {finding.remedy}")
