"""The documents of all sources, one stream that can start anywhere; what cannot be read is named."""

from collections.abc import Iterator
from typing import NamedTuple

from asiarch.hpc.data.formats import BadFileError, read_file
from asiarch.hpc.data.sources import SourceFile
from asiarch.models.errors import UserError


class Position(NamedTuple):
    """Where reading goes on: index of the file in the order of `walk`, and the place in it."""

    file: int
    place: int


class Piece(NamedTuple):
    """A document, or (`text` is None) a row or the rest of a file, skipped for `reason`.

    read: bytes of all sources consumed so far. position: what comes after.
    """

    text: str | None
    reason: str
    name: str
    read: int
    position: Position


def read_documents(files: Iterator[SourceFile], start: Position, text_column: str) -> Iterator[Piece]:
    """The documents of `files` from `start` on; UserError for bad content of a named file."""
    before = 0
    for index, file in enumerate(files):
        if index >= start.file:
            yield from _read(file, index, start.place if index == start.file else 0, before, text_column)
        before += file.size


def _read(file: SourceFile, index: int, place: int, before: int, text_column: str) -> Iterator[Piece]:
    found = place > 0
    end, position = before + file.size, Position(index + 1, 0)
    try:
        for document in read_file(file, place, text_column):
            here = Position(index, document.next_place)
            if document.text is None:
                found = True
                yield _skipped(file, document.problem, document.where, before + document.read, here)
            elif document.text and not document.text.isspace():
                found = True
                yield Piece(document.text, "", file.name, before + document.read, here)
        if not found:
            yield _skipped(file, "empty", "", end, position)
    except OSError as error:
        yield _skipped(file, f"unreadable: {error.strerror}", "", end, position)
    except BadFileError as error:
        yield _skipped(file, error.reason, error.where, end, position)


def _skipped(file: SourceFile, reason: str, where: str, read: int, position: Position) -> Piece:
    if file.named:
        at = f" at {where}" if where else ""
        raise UserError(f"{file.name}: {reason}{at}; mend it, or leave it out")
    return Piece(None, reason, f"{file.name} at {where}" if where else file.name, read, position)
