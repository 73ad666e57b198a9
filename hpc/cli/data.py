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
from asiarch.hpc.data.tokenizer_training import train_tokenizer

_LINE_BYTES = 64_000_000
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


class _Count(click.ParamType):
    """A number of tokens or bytes: 1000, 64M, 1.5G, 1e9."""

    name = "count"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d+)?(?:e\d+)?)([kmg]?)", str(value).lower())
        if match is None:
            self.fail(f"{value!r} is not a number such as 64M or 1e9", param, ctx)
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
@click.option("--text-column", default="text", show_default=True, help="Of JSON lines and Parquet.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes.  [as many as cores]")
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
    text_column: str,
    workers: int | None,
) -> None:
    """Turn files, folders, or the word `stdlib` (Python's own sources) into a dataset of tokens.

    Names that end in .jsonl or .ndjson are read as JSON lines, .parquet as Parquet, a document a row; all else as
    plain text. Text and JSON lines may be compressed (.gz, .bz2, .xz, .zst). A text in a folder is a document,
    one above 1 MiB several; one named here is cut at blank lines into documents of 8 KiB or more.

    Train, validation and test share no document, and equal documents (whitespace aside) are kept once. Stopped at
    any moment, the same command goes on.
    """
    there_before = (out / FILE_NAME).exists()
    last: list[Progress] = []

    def progress(now: Progress) -> None:
        last[:] = [now]
        show(now)

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
                suffixes=_suffixes(suffix),
                text_column=text_column,
                workers=workers,
                progress=progress,
            )
    except KeyboardInterrupt:
        click.echo("interrupted; the same command goes on from here", err=True)
        raise
    if there_before:
        click.echo(f"{out} is finished already, with the same arguments; nothing to do")
    _summarise(out, manifest)
    if last and last[0].tokens_per_s:
        click.echo(f"  speed      {_short(last[0].tokens_per_s)} tokens/s")


@data.command()
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The tokenizer.json to write.")
@click.option("--vocabulary", type=_Count(), default=32_768, show_default=True, help="Tokens in all.")
@click.option("--sample", type=_Count(), default=10**9, help="Bytes of text to learn from.  [1G]")
@click.option("--seed", default=0, show_default=True, help="Of the sample.")
@click.option("--suffix", default="", help="Of folders, take only these names: .py,.txt  [all text]")
@click.option("--text-column", default="text", show_default=True, help="Of JSON lines and Parquet.")
def tokenizer(
    sources: tuple[str, ...],
    out: Path,
    vocabulary: int,
    sample: int,
    seed: int,
    suffix: str,
    text_column: str,
) -> None:
    """Train a tokenizer (byte-level BPE) on the sources of `data prepare`."""
    with _shown() as show:
        size = train_tokenizer(
            sources,
            out,
            vocabulary=vocabulary,
            sample_bytes=sample,
            seed=seed,
            suffixes=_suffixes(suffix),
            text_column=text_column,
            progress=show,
        )
    click.echo(f"{out}: {size:,} tokens; use it with `asiarch-hpc data prepare --tokenizer {out}`")


def _suffixes(names: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in names.split(",") if part.strip())


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
            speed = f"  {_short(now.tokens_per_s)} tokens/s" if now.tokens_per_s else ""
            click.echo(f"{percent:3.0f}%  {_describe(now)}{speed}", err=True)
        if next_at is None or now.bytes_read >= next_at:
            next_at = now.bytes_read + _LINE_BYTES

    return show


def _describe(now: Progress) -> str:
    tokens = f"  {_short(now.tokens)} tokens" if now.tokens else ""
    return f"{now.documents:,} documents{tokens}"


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
    if count := manifest.skipped["count"]:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in manifest.skipped["reasons"].items())
        click.echo(
            f"  skipped    {count:,} files or rows ({reasons}); the first is {manifest.skipped['first'][0]}"
        )
        click.echo(f"             more of them in {out / FILE_NAME}, under `skipped`")
