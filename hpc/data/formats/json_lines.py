"""JSON lines: an object a line, a document a row."""

import json
from collections.abc import Iterator

from asiarch.hpc.data.formats.compression import opened
from asiarch.hpc.data.formats.document import Document, bad_row, missing_column, of_row
from asiarch.hpc.data.sources import SourceFile


def read_json_lines(file: SourceFile, start: int, text_column: str) -> Iterator[Document]:
    """The documents after the first `start` rows; blank lines are counted and passed over."""
    with opened(file.path) as (content, raw):
        for row, line in enumerate(content, start=1):
            if row > start and not line.isspace():
                yield _document(line, text_column, row, raw.tell())


def _document(line: bytes, column: str, row: int, read: int) -> Document:
    try:
        content = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return bad_row("not UTF-8", row, read)
    except (ValueError, RecursionError) as error:
        return bad_row(f"not JSON ({error})", row, read)
    if not isinstance(content, dict):
        return bad_row(f"not an object but {type(content).__name__}", row, read)
    if column not in content:
        return bad_row(missing_column(column, list(content)), row, read)
    return of_row(content[column], column, row, read)
