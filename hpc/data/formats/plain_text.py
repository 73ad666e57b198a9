"""Plain text, cut into documents at blank lines.

Never more than a few MiB of a file are in memory. A file found in a folder is one document up to 1 MiB; a
longer one, and every file that is named explicitly, is cut at the first blank line after each 8 KiB.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from asiarch.hpc.data.formats.compression import opened, skip
from asiarch.hpc.data.formats.document import BadFileError, Document
from asiarch.hpc.data.sources import SourceFile

CUT_BYTES: Final = 8 * 1024
LONGEST_BYTES: Final = 1024 * 1024

_BLANK_LINE = re.compile(rb"\n[ \t\r]*\n")


def read_plain_text(file: SourceFile, start: int) -> Iterator[Document]:
    """The documents from byte `start` of the (decompressed) text on; those of whitespace alone are left out."""
    whole = not file.named and file.size <= LONGEST_BYTES
    with opened(file.path) as (content, raw):
        skip(content, start)
        for begin, data in cut(content, start, LONGEST_BYTES if whole else CUT_BYTES):
            text = _decode(file.path, data, begin)
            if not text.isspace():
                yield Document(text, begin + len(data), min(raw.tell(), begin + len(data)))


def _decode(path: Path, data: bytes, begin: int) -> str:
    if (zero := data.find(0)) >= 0:
        raise BadFileError("not text, a zero byte", _where(path, begin + zero))
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise BadFileError("not UTF-8", _where(path, begin + error.start)) from None


def _where(path: Path, byte: int) -> str:
    line, left = 1, byte
    with opened(path) as (content, _):
        while left > 0 and (block := content.read(min(left, LONGEST_BYTES))):
            line += block.count(b"\n")
            left -= len(block)
    return f"byte {byte} (line {line})"


def cut(content: BinaryIO, offset: int, shortest: int) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, bytes) of consecutive pieces that together are the content, which stands at `offset`.

    A piece ends after the first blank line past `shortest` bytes; where there is none within `LONGEST_BYTES`,
    at the last line end, or between two characters. Where a piece ends depends only on where it starts.
    """
    buffer, at, ended = b"", 0, False
    while True:
        while not ended and len(buffer) - at <= LONGEST_BYTES:
            # decompressors may give less than was asked for
            block = content.read(2 * LONGEST_BYTES)
            ended = not block
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
