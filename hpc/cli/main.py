"""The command `asiarch-hpc`. Each command's module is imported when it is asked for: `status` stays quick."""

import gc
import sys
from importlib import import_module

import click

from asiarch.models.errors import UserError

# command -> the module of asiarch.hpc.cli that holds it under the same name
COMMANDS = {
    "init": "init",
    "doctor": "doctor",
    "run": "run",
    "status": "status",
    "ranking": "ranking",
    "show": "show",
    "logs": "logs",
    "stop": "stop",
    "cancel": "cancel",
    "check": "check",
    "export": "export",
    "data": "data",
}
# a replayed journal is 10^6 objects that stay: looking through them for cycles would take as long as making them
COLLECT_AFTER = (200_000, 20, 100)


class _Commands(click.Group):
    """Finds a command by importing its module; a UserError becomes one line and exit code 2."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = import_module(f"asiarch.hpc.cli.{COMMANDS[name]}")
        command: click.Command = getattr(module, name)
        return command

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except UserError as error:
            click.echo(f"asiarch-hpc: {error}", err=True)
            sys.exit(2)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="asiarch-hpc")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Let a Slurm cluster, or this machine, discover neural architectures by itself.

    Start with `asiarch-hpc init`, then `asiarch-hpc run CONFIG`; `status`, `ranking`, `show` and `logs` only read.
    """
    gc.set_threshold(*COLLECT_AFTER)
    ctx.call_on_close(gc.freeze)  # or Python looks through them all once more as it ends
