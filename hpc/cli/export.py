"""`asiarch-hpc export ID DIR`: a trained candidate for Hugging Face `transformers`."""

from pathlib import Path

import click

from asiarch.hpc.cli.options import run_option
from asiarch.hpc.layout import find_run


@click.command()
@click.argument("candidate_id", metavar="ID", type=int)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--seed", type=int, help="The trial's seed (default: that with the lowest validation loss).")
@run_option
def export(candidate_id: int, folder: Path, seed: int | None, run_dir: Path | None) -> None:
    """Write a candidate's trained model to DIR, a new folder that transformers loads (trust_remote_code).

    The trial at the highest rung is taken. The folder is loaded and must give the campaign's validation loss;
    its README.md is a model card of what was measured.
    """
    # imported late: torch takes seconds
    from asiarch.hpc.export import export as write

    done = write(find_run(run_dir), candidate_id, folder, seed)
    how = "with the mixer's cache" if done.mixer_cache else "by reading the whole text anew"
    click.echo(
        f"{done.folder}: candidate {done.key.candidate:04d} rung {done.key.rung} seed {done.key.seed}, validation "
        f"loss {done.loaded_loss:.6f} (recorded {done.recorded_loss:.6f}); generates {how}"
    )
