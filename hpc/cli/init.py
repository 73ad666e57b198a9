"""`asiarch-hpc init`: a commented campaign file to start from."""

from importlib import resources
from pathlib import Path
from textwrap import indent

import click

from asiarch.hpc.config import PRESETS, preset_text, preset_values
from asiarch.hpc.yaml_source import YamlSource
from asiarch.models.errors import UserError
from asiarch.results.files import atomic_write_text

PROFILES = ("a100", "h100", "preemptible", "cpu")


@click.command()
@click.argument("name", default="my-campaign")
@click.option(
    "--preset", type=click.Choice(PRESETS), default="demo", show_default=True, help="What to start from."
)
@click.option(
    "--profile", metavar="NAME|FILE", help=f"The cluster: {', '.join(PROFILES)}, or a file like those."
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="The file to write (default: campaigns/NAME.yaml)."
)
def init(name: str, preset: str, profile: str | None, out: Path | None) -> None:
    """Write a campaign file with every value of a preset in it, each explained."""
    path = out or Path("campaigns") / f"{name}.yaml"
    if path.exists():
        raise UserError(f"{path}: is there already; choose another NAME or --out FILE")
    text = (
        f"name: {name}\n"
        f"preset: {preset}   # gives every value that is deleted below\n"
        "seed: 0            # of the search, the data order and the initial weights\n\n"
    ) + (preset_text(preset) if profile is None else _on_cluster(preset_text(preset), _profile(profile)))
    atomic_write_text(path, text)
    first = "look through it" if preset_values(preset)["data"]["train"] else "set data.train in it"
    then = (
        f"asiarch-hpc run {path}"
        if profile is None
        else f"asiarch-hpc doctor {path}; sbatch slurm/campaign.sh {path}"
    )
    click.echo(f"wrote {path}; {first}, then: {then}")


def _profile(name: str) -> str:
    if name in PROFILES:
        return (resources.files("asiarch.profiles") / f"{name}.yaml").read_text(encoding="utf-8")
    path = Path(name)
    if not path.is_file():
        raise UserError(f"--profile {name}: no such file, and none of {', '.join(PROFILES)}")
    YamlSource.read(path)  # says where it is not YAML
    return path.read_text(encoding="utf-8")


def _on_cluster(preset: str, profile: str) -> str:
    """The preset with its section `slurm` taken from a profile, comments and all."""
    lines = preset.replace("executor: local\n", "executor: slurm\n").splitlines(keepends=True)
    start = lines.index("slurm:\n")
    end = next(n for n, line in enumerate(lines) if n > start and not line.startswith((" ", "#")))
    return (
        "".join(lines[: start + 1])
        + indent(profile.rstrip() + "\n\n", "  ")
        + "".join(lines[end:]).lstrip("\n")
    )
