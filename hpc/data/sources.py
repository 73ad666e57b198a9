"""Where documents come from: files, folders, the standard library, as a stream that can start anywhere.

Never more than a few MiB of a file are in memory. A file found in a folder is one document up to 1 MiB; a
longer one, and every file that is named explicitly, is cut at the first blank line after each 8 KiB.
"""

import os
import re
import stat
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from asiarch.models.errors import UserError

STDLIB: Final = "stdlib"
CUT_BYTES: Final = 8 * 1024
LONGEST_BYTES: Final = 1024 * 1024

_BLANK_LINE = re.compile(rb"\n[ \t\r]*\n")
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


class Position(NamedTuple):
    """Where reading goes on: index of the file in the order of `walk`, and byte offset in it."""

    file: int
    offset: int


class Piece(NamedTuple):
    """A document, or (`text` is None) a file skipped for `reason`; `position` is what comes after."""

    text: str | None
    reason: str
    name: str
    size: int
    position: Position


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


def read_documents(files: Iterator[SourceFile], start: Position) -> Iterator[Piece]:
    """The documents of `files` from `start` on; UserError for bad content of a named file."""
    for index, file in enumerate(files):
        if index >= start.file:
            yield from _read_file(file, index, start.offset if index == start.file else 0)


def _read_file(file: SourceFile, index: int, offset: int) -> Iterator[Piece]:
    found = offset > 0
    whole = not file.named and file.size <= LONGEST_BYTES
    try:
        with file.path.open("rb") as handle:
            for begin, data in cut(handle, offset, LONGEST_BYTES if whole else CUT_BYTES):
                text = _decode(data, begin)
                if not text.isspace():
                    found = True
                    position = Position(index, begin + len(data))
                    yield Piece(text, "", file.name, len(data), position)
        if found:
            return
        reason, where = "empty", ""
    except OSError as error:
        reason, where = f"unreadable: {error.strerror}", ""
    except _NotTextError as error:
        reason, where = error.reason, f" at byte {error.byte} (line {_line(file.path, error.byte)})"
    if file.named:
        raise UserError(f"{file.name}: {reason}{where}; mend it, or leave it out")
    yield Piece(None, reason, file.name + where, file.size - offset, Position(index + 1, 0))


class _NotTextError(Exception):
    def __init__(self, reason: str, byte: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.byte = byte


def _decode(data: bytes, begin: int) -> str:
    if (zero := data.find(0)) >= 0:
        raise _NotTextError("not text, a zero byte", begin + zero)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise _NotTextError("not UTF-8", begin + error.start) from None


def _line(path: Path, byte: int) -> int:
    """Line number, from 1, of a byte offset."""
    line = 1
    with path.open("rb") as handle:
        while byte > 0 and (block := handle.read(min(byte, LONGEST_BYTES))):
            line += block.count(b"\n")
            byte -= len(block)
    return line


def cut(handle: BinaryIO, offset: int, shortest: int) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, bytes) of consecutive pieces that together are the file from `offset` on.

    A piece ends after the first blank line past `shortest` bytes; where there is none within `LONGEST_BYTES`,
    at the last line end, or between two characters. Where a piece ends depends only on where it starts.
    """
    handle.seek(offset)
    buffer, at, ended = b"", 0, False
    while True:
        if not ended and len(buffer) - at <= LONGEST_BYTES:
            block = handle.read(2 * LONGEST_BYTES)
            ended = len(block) < 2 * LONGEST_BYTES
            buffer, at = buffer[at:] + block, 0
        if at == len(buffer):
            return
        end = _boundary(buffer, at, shortest)
        yield offset, buffer[at:end]
        offset += end - at
        at = end


def _boundary(buffer: bytes, at: int, shortest: int) -> int:
    last = at + LONGEST_BYTES
    if blank := _BLANK_LINE.search(buffer, at + shortest, last):
        return blank.end()
    if len(buffer) <= last:
        return len(buffer)
    if (newline := buffer.rfind(b"\n", at, last)) >= 0:
        return newline + 1
    # a UTF-8 continuation byte is 0b10xxxxxx and there are at most three; more of them is not UTF-8 anyway
    for end in range(last, last - 4, -1):
        if buffer[end] & 0xC0 != 0x80:
            return end
    return last
