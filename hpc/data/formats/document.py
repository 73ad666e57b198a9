"""What every reader gives: a document, or a row that is none; and the error that ends a file."""

from typing import NamedTuple


class Document(NamedTuple):
    """`text`, or None and the `problem` with it; `where` in the file it stands, for a message.

    next_place: where to start to read what follows. read: bytes of the file on the disk consumed so far.
    """

    text: str | None
    next_place: int
    read: int
    problem: str = ""
    where: str = ""


class BadFileError(Exception):
    """The file is `reason` from `where` on."""

    def __init__(self, reason: str, where: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.where = where


def of_row(value: object, column: str, row: int, read: int) -> Document:
    """The document of a row, from 1, whose `column` holds `value`; null is an empty text."""
    if value is None:
        value = ""
    if not isinstance(value, str):
        return bad_row(f"{column!r} holds {type(value).__name__}, not text", row, read)
    try:
        value.encode()
    except UnicodeEncodeError:
        return bad_row(f"{column!r} holds half a surrogate pair, which is no character", row, read)
    return Document(value, row, read)


def bad_row(problem: str, row: int, read: int) -> Document:
    """A row, from 1, without a document."""
    return Document(None, row, read, problem, f"row {row}")


def missing_column(column: str, have: list[str]) -> str:
    """What to say where the text's column is not there."""
    names = ", ".join(have[:8]) + (", ..." if len(have) > 8 else "")
    return f"no {column!r} among its columns ({names}); name the text's with `data prepare --text-column`"
