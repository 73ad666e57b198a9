"""Options that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:  # most commands print no tables
    from rich.console import Console

Command = TypeVar("Command", bound=Callable[..., Any])


def run_option(command: Command) -> Command:
    """`--run DIR`: the campaign's folder."""
    return click.option(
        "--run",
        "run_dir",
        type=click.Path(path_type=Path),
        help="The campaign's folder (default: $ASIARCH_RUN, else the nearest one from here upward).",
    )(command)


def json_option(command: Command) -> Command:
    """`--json`: the same content for programs."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")(command)


def console() -> "Console":
    """Where tables go: full width in a pipe, so that no cell is cut."""
    from rich.console import Console

    output = Console(highlight=False)
    return output if output.is_terminal else Console(highlight=False, width=240)
