"""`asiarch-hpc init`: a commented campaign file to start from."""

from pathlib import Path

import click

from asiarch.hpc.config import PRESETS, preset_text, preset_values
from asiarch.models.errors import UserError
from asiarch.results.files import atomic_write_text


@click.command()
@click.argument("name", default="my-campaign")
@click.option(
    "--preset", type=click.Choice(PRESETS), default="demo", show_default=True, help="What to start from."
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="The file to write (default: campaigns/NAME.yaml)."
)
def init(name: str, preset: str, out: Path | None) -> None:
    """Write a campaign file with every value of a preset in it, each explained."""
    path = out or Path("campaigns") / f"{name}.yaml"
    if path.exists():
        raise UserError(f"{path}: is there already; choose another NAME or --out FILE")
    text = (
        f"name: {name}\n"
        f"preset: {preset}   # gives every value that is deleted below\n"
        "seed: 0            # of the search, the data order and the initial weights\n\n"
    ) + preset_text(preset)
    atomic_write_text(path, text)
    first = "look through it" if preset_values(preset)["data"]["train"] else "set data.train in it"
    click.echo(f"wrote {path}; {first}, then: asiarch-hpc run {path}")
