"""Files opened for reading through their compression, which the end of their name tells."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

from asiarch.hpc.data.formats.document import BadFileError
from asiarch.models.errors import UserError

_DAMAGE: Final = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError)


def _gzip(raw: BinaryIO) -> Any:
    return gzip.GzipFile(fileobj=raw)


def _zstandard(raw: BinaryIO) -> Any:
    try:
        import pyarrow
    except ImportError:
        raise UserError("reading .zst files needs pyarrow: pip install 'asiarch-hpc[data]'") from None
    # unlike zstandard's own stream reader it says where a stream was cut short
    return io.BufferedReader(pyarrow.CompressedInputStream(pyarrow.PythonFile(raw, "r"), "zstd"))


_OPENERS: Final[dict[str, Callable[[BinaryIO], Any]]] = {
    ".gz": _gzip,
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
    ".zst": _zstandard,
}


def plain_name(path: Path) -> str:
    """The file's name without the ending that names its compression."""
    return path.stem if path.suffix.lower() in _OPENERS else path.name


@contextmanager
def opened(path: Path) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """The file's content, decompressed, and the file on the disk, whose position tells what has been read.

    Raises:
        BadFileError: the compressed stream is damaged or cut short, noticed while it is read.
    """
    suffix = path.suffix.lower()
    with path.open("rb") as raw:
        if suffix not in _OPENERS:
            yield raw, raw
            return
        try:
            with _OPENERS[suffix](raw) as content:
                yield content, raw
        except (*_DAMAGE, OSError) as error:
            # bz2 and Arrow have no error of their own, and set no number as the operating system does
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise BadFileError(f"damaged or cut short as a {suffix} file ({error})") from None


def skip(content: BinaryIO, count: int) -> None:
    """Read on by `count` bytes; not every decompressor can seek."""
    while count > 0 and (block := content.read(min(count, 1 << 20))):
        count -= len(block)
