"""Readers of one file each, as streams of documents that can start anywhere: text, JSON lines, Parquet.

The name says the format: `.jsonl` and `.ndjson`, `.parquet`, all else plain text; text and JSON lines may be
compressed (`.gz`, `.bz2`, `.xz`, `.zst`).
"""

from collections.abc import Iterator

from asiarch.hpc.data.formats.compression import plain_name
from asiarch.hpc.data.formats.document import BadFileError, Document
from asiarch.hpc.data.formats.json_lines import read_json_lines
from asiarch.hpc.data.formats.parquet import read_parquet
from asiarch.hpc.data.formats.plain_text import read_plain_text
from asiarch.hpc.data.sources import SourceFile

__all__ = ["BadFileError", "Document", "read_file"]


def read_file(file: SourceFile, start: int, text_column: str) -> Iterator[Document]:
    """The documents of a file from the place `start`, 0 or the `next_place` of a document, to the end.

    Args:
        text_column: of JSON lines and Parquet, the key or column that holds the text.

    Raises:
        BadFileError: nothing further can be read.
        OSError: the same, by the operating system.
    """
    name = plain_name(file.path).lower()
    if name.endswith((".jsonl", ".ndjson")):
        return read_json_lines(file, start, text_column)
    if name.endswith(".parquet"):
        return read_parquet(file, start, text_column)
    return read_plain_text(file, start)
