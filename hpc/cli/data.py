"""`asiarch-hpc data`: datasets of tokens."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from asiarch.hpc.data import Manifest, Progress
from asiarch.hpc.data import prepare as prepare_dataset
from asiarch.hpc.data.manifest import FILE_NAME
from asiarch.hpc.data.preparation import SHARD_TOKENS

_LINE_BYTES = 64_000_000
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


class _Count(click.ParamType):
    """A number of tokens: 1000, 64M, 1.5G, 1e9."""

    name = "tokens"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?(?:e\d+)?)([kmg]?)", str(value).lower())
        if match is None:
            self.fail(f"{value!r} is not a number of tokens such as 64M or 1e9", param, ctx)
        return int(float(match[1]) * _UNITS[match[2]])


@click.group()
def data() -> None:
    """Prepare datasets of tokens."""


@data.command()
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the dataset.")
@click.option("--tokenizer", default="bytes", show_default=True, help="`bytes`, or a tokenizer.json.")
@click.option("--validation", default=0.02, show_default=True, help="Fraction of the documents; 0 for none.")
@click.option("--test", default=0.02, show_default=True, help="Fraction of the documents; 0 for none.")
@click.option("--near-duplicates", is_flag=True, help="Drop documents that nearly equal an earlier one.")
@click.option("--seed", default=0, show_default=True, help="Of the choice of split.")
@click.option("--shard-tokens", type=_Count(), default=SHARD_TOKENS, help="Most tokens of a file.  [64M]")
@click.option("--suffix", default="", help="Of folders, take only these names: .py,.txt  [all text]")
def prepare(
    sources: tuple[str, ...],
    out: Path,
    tokenizer: str,
    validation: float,
    test: float,
    near_duplicates: bool,
    seed: int,
    shard_tokens: int,
    suffix: str,
) -> None:
    """Turn text files, folders, or the word `stdlib` (Python's own sources) into a dataset of tokens.

    A file in a folder is a document, one above 1 MiB several; a file named here is cut at blank lines into
    documents of 8 KiB or more. Train, validation and test share no document, and equal documents (whitespace
    aside) are kept once. Stopped at any moment, the same command goes on.
    """
    there_before = (out / FILE_NAME).exists()
    try:
        with _shown() as show:
            manifest = prepare_dataset(
                sources,
                out,
                tokenizer=tokenizer,
                validation=validation,
                test=test,
                near_duplicates=near_duplicates,
                seed=seed,
                shard_tokens=shard_tokens,
                suffixes=tuple(part.strip() for part in suffix.split(",") if part.strip()),
                progress=show,
            )
    except KeyboardInterrupt:
        click.echo("interrupted; the same command goes on from here", err=True)
        raise
    if there_before:
        click.echo(f"{out} is finished already, with the same arguments; nothing to do")
    _summarise(out, manifest)


@contextmanager
def _shown() -> Iterator[Callable[[Progress], None]]:
    """A bar in a terminal; else a line now and then. On stderr, so that stdout holds the summary alone."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("listing the sources", total=None)

        def show(now: Progress) -> None:
            bar.update(task, description=_describe(now), completed=now.bytes_read, total=now.bytes_total)

        yield show


def _lines() -> Callable[[Progress], None]:
    next_at: int | None = None

    def show(now: Progress) -> None:
        nonlocal next_at
        if next_at is None and now.documents:
            click.echo(f"going on after {_describe(now)}", err=True)
        elif next_at is not None and now.bytes_read >= next_at:
            percent = 100 * now.bytes_read / max(1, now.bytes_total)
            click.echo(f"{percent:3.0f}%  {_describe(now)}  {_short(now.tokens_per_s)} tokens/s", err=True)
        if next_at is None or now.bytes_read >= next_at:
            next_at = now.bytes_read + _LINE_BYTES

    return show


def _describe(now: Progress) -> str:
    return f"{now.documents:,} documents  {_short(now.tokens)} tokens"


def _short(count: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.1f}{unit}"
    return f"{count:.0f}"


def _summarise(out: Path, manifest: Manifest) -> None:
    name, bits = manifest.tokenizer["name"], 8 * int(manifest.dtype[-1])
    click.echo(
        f"{out}: tokenizer {name}, vocabulary {manifest.vocab_size:,}, {bits}-bit ids,"
        f" id {manifest.end_id} ends a document"
    )
    for split, shards in manifest.splits.items():
        tokens, documents = _short(manifest.tokens(split)), manifest.documents(split)
        files = f"{len(shards)} shard{'s' if len(shards) != 1 else ''}"
        click.echo(f"  {split:<11}{tokens:>8} tokens  {documents:>9,} documents  {files}")
    click.echo(
        f"  dropped    {manifest.dropped['exact']:,} equal and {manifest.dropped['near']:,} nearly equal"
    )
    if files := manifest.skipped["files"]:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in manifest.skipped["reasons"].items())
        click.echo(f"  skipped    {files:,} files ({reasons}); the first is {manifest.skipped['first'][0]}")
        click.echo(f"             more of them in {out / FILE_NAME}, under `skipped`")
