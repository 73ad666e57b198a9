"""Which files to read: files, folders and the standard library, as a list in a fixed order."""

import os
import stat
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from asiarch.models.errors import UserError

STDLIB: Final = "stdlib"

_NEVER = frozenset({"__pycache__"})
_NOT_STDLIB = frozenset({"site-packages", "dist-packages", "__pycache__"})


@dataclass(frozen=True)
class Source:
    """One SOURCE of the command line, resolved."""

    given: str
    path: Path
    suffixes: tuple[str, ...]
    ignored_folders: frozenset[str] = _NEVER


@dataclass(frozen=True)
class SourceFile:
    """A file to read: `named` by the person (bad content is an error), or found in a folder (skipped)."""

    path: Path
    size: int
    modified_ns: int
    source: int
    named: bool

    @property
    def name(self) -> str:
        """The path, printable also when its bytes are not UTF-8."""
        return os.fsencode(self.path).decode(errors="replace")


def resolve_sources(sources: Sequence[str | Path], suffixes: Sequence[str], out: Path) -> list[Source]:
    """Check each source; UserError for one that is missing, unreadable, or would contain the output."""
    if not sources:
        raise UserError("no source given; name text files, folders, or `stdlib`")
    return [_resolve(str(given), tuple(suffixes), out.resolve()) for given in sources]


def _resolve(given: str, suffixes: tuple[str, ...], out: Path) -> Source:
    if given == STDLIB:
        return Source(given, Path(sysconfig.get_paths()["stdlib"]).resolve(), (".py",), _NOT_STDLIB)
    path = Path(given).resolve()
    if not path.exists():
        raise UserError(f"source {given} does not exist")
    if not os.access(path, os.R_OK):
        raise UserError(f"source {given} cannot be read: permission denied")
    if not path.is_file() and not path.is_dir():
        raise UserError(f"source {given} is neither a regular file nor a folder")
    if path.is_dir() and (out == path or path in out.parents):
        raise UserError(f"the output {out} lies inside the source {given}; choose an --out outside of it")
    return Source(given, path, suffixes)


def walk(sources: Sequence[Source]) -> Iterator[SourceFile]:
    """Every file in a fixed order: sources as given, folders sorted by name at each level.

    Hidden names are left out, and links to folders are not followed.
    """
    for index, source in enumerate(sources):
        if source.path.is_dir():
            yield from _walk_folder(source.path, source, index)
        else:
            yield _source_file(source.path, source.path.stat(), index, named=True)


def _walk_folder(folder: Path, source: Source, index: int) -> Iterator[SourceFile]:
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError:
        # given on as a file: opening it fails, so it is listed among what was skipped
        yield SourceFile(folder, 0, 0, index, named=False)
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        path = folder / entry.name
        if entry.is_dir(follow_symlinks=False):
            if entry.name not in source.ignored_folders:
                yield from _walk_folder(path, source, index)
        elif not source.suffixes or entry.name.endswith(source.suffixes):
            try:
                status = entry.stat()
            except OSError:
                yield SourceFile(path, 0, 0, index, named=False)
                continue
            # a pipe or a device would block or never end
            if stat.S_ISREG(status.st_mode):
                yield _source_file(path, status, index, named=False)


def _source_file(path: Path, status: os.stat_result, source: int, *, named: bool) -> SourceFile:
    return SourceFile(path, status.st_size, status.st_mtime_ns, source, named)
