"""Shards on their way to the disk: append-only files, and a record of how much of each counts.

Bytes are appended and fsynced first, then the record is replaced; what lies beyond the record is cut off.
"""

import os
from pathlib import Path
from typing import Any, Final

import numpy as np

from asiarch.hpc.data.dataset import file_sha256
from asiarch.hpc.data.deduplication import HashSet
from asiarch.hpc.data.manifest import Shard
from asiarch.models.errors import UserError

_BUFFER_BYTES: Final = 1 << 20


class AppendOnly:
    """A file that only grows, opened at a recorded length."""

    def __init__(self, path: Path, length: int) -> None:
        self.path = path
        if path.exists():
            if path.stat().st_size < length:
                raise UserError(
                    f"{path} is shorter than its record says; remove {path.parent} and prepare it again"
                )
            os.truncate(path, length)
        elif length:
            raise UserError(f"{path} is missing; remove {path.parent} and prepare it again")
        self._handle = path.open("ab", buffering=_BUFFER_BYTES)

    def append(self, array: np.ndarray) -> None:
        """Append the array's bytes."""
        self._handle.write(np.ascontiguousarray(array).data)

    def sync(self) -> None:
        """Force what was appended to the disk."""
        self._handle.flush()
        os.fsync(self._handle.fileno())

    def close(self) -> None:
        """Write out what is buffered, and close; closing twice is fine."""
        self._handle.close()


class SplitWriter:
    """The shards of one split. No document is cut: a shard ends before the one that would overfill it."""

    def __init__(self, folder: Path, split: str, dtype: str, end_id: int, shard_tokens: int) -> None:
        self.split = split
        self.finished: list[Shard] = []
        self._folder = folder
        self._dtype = np.dtype(dtype)
        self._end = np.array([end_id], self._dtype)
        self._limit = shard_tokens
        self._tokens = 0
        self._documents = 0
        self._bytes = 0
        self._file: AppendOnly | None = None

    @property
    def tokens(self) -> int:
        """Tokens of all shards so far."""
        return self._tokens + sum(shard.tokens for shard in self.finished)

    def append(self, ids: np.ndarray, text_bytes: int) -> None:
        """Append a document and its end id; `text_bytes` is the length of its text in UTF-8."""
        count = len(ids) + 1
        if self._tokens and self._tokens + count > self._limit:
            self.finish_shard()
        if self._file is None:
            self._file = AppendOnly(self._path(), 0)
        self._file.append(np.concatenate([ids.astype(self._dtype), self._end]))
        self._tokens += count
        self._documents += 1
        self._bytes += text_bytes

    def finish_shard(self) -> None:
        """Close the open shard, if any, and take its hash from what the disk gives back."""
        if self._file is None:
            return
        self._file.sync()
        self._file.close()
        path = self._path()
        sha256 = file_sha256(path)
        self.finished.append(Shard(path.name, self._tokens, self._documents, self._bytes, sha256))
        self._tokens, self._documents, self._bytes, self._file = 0, 0, 0, None

    def record(self) -> dict[str, Any]:
        """Force the open shard to the disk and give what `restore` needs."""
        if self._file is not None:
            self._file.sync()
        finished = [vars(shard) for shard in self.finished]
        counts = {"tokens": self._tokens, "documents": self._documents, "bytes": self._bytes}
        return {"finished": finished, **counts}

    def restore(self, record: dict[str, Any]) -> None:
        """Go back to a record: files it does not know are removed, the open one is cut to its length."""
        self.finished = [Shard(**shard) for shard in record["finished"]]
        self._tokens, self._documents = record["tokens"], record["documents"]
        self._bytes = record["bytes"]
        known = {shard.file for shard in self.finished}
        if self._tokens:
            self._file = AppendOnly(self._path(), self._tokens * self._dtype.itemsize)
            known.add(self._path().name)
        for path in self._folder.glob(f"{self.split}-*.bin"):
            if path.name not in known:
                path.unlink()

    def close(self) -> None:
        """Let go of the open file; the record still holds."""
        if self._file is not None:
            self._file.close()

    def _path(self) -> Path:
        return self._folder / f"{self.split}-{len(self.finished):05d}.bin"


class HashLog:
    """A set of uint64 with its append-only file, from which it is made again."""

    def __init__(self, path: Path, count: int) -> None:
        self.known = HashSet()
        self._file = AppendOnly(path, count * 8)
        self._count = count
        if count:
            self.known.add(np.fromfile(path, "<u8"))

    def add(self, values: np.ndarray) -> None:
        """Add values of any shape to the set and the file."""
        self.known.add(values)
        self._file.append(values.astype("<u8", copy=False))
        self._count += values.size

    def record(self) -> int:
        """Force the file to the disk and give its length in values."""
        self._file.sync()
        return self._count

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()
