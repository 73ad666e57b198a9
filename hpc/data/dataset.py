"""The reader of a prepared dataset: memory-mapped shards, nothing copied until it is asked for."""

import hashlib
from functools import cached_property
from pathlib import Path

import numpy as np

from asiarch.hpc.data.manifest import Manifest, Shard, read_manifest
from asiarch.hpc.data.tokenizer import ByteTokenizer, FileTokenizer, Tokenizer
from asiarch.models.errors import UserError

TOKENIZER_FILE = "tokenizer.json"


class Split:
    """One split's tokens. `shards` are 1-D memory maps of unsigned integers."""

    def __init__(self, name: str, folder: Path, shards: tuple[Shard, ...], dtype: str) -> None:
        self.name = name
        self.folder = folder
        self.dtype = np.dtype(dtype)
        self.shard_tokens: tuple[int, ...] = tuple(shard.tokens for shard in shards)
        self.tokens: int = sum(self.shard_tokens)
        self.documents: int = sum(shard.documents for shard in shards)
        self._files = tuple(folder / shard.file for shard in shards)

    @cached_property
    def shards(self) -> tuple[np.ndarray, ...]:
        """One read-only array a shard, in order."""
        return tuple(np.memmap(path, self.dtype, mode="r") for path in self._files)


class Dataset:
    """A prepared dataset; make it with `open_dataset`."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self.vocab_size = manifest.vocab_size
        self.end_id = manifest.end_id

    def split(self, name: str) -> Split:
        """The split `train`, `validation` or `test`; UserError when the dataset was prepared without it."""
        shards = self.manifest.splits.get(name, ())
        if not shards:
            have = ", ".join(key for key, value in self.manifest.splits.items() if value)
            raise UserError(f"dataset {self.folder} has no {name!r} split; it has {have}")
        return Split(name, self.folder, shards, self.manifest.dtype)

    def tokenizer(self) -> Tokenizer:
        """The tokenizer the dataset was prepared with, from the copy in its folder."""
        if self.manifest.tokenizer["sha256"] is None:
            return ByteTokenizer()
        content = (self.folder / TOKENIZER_FILE).read_bytes()
        return FileTokenizer(content, self.manifest.tokenizer["name"])


def open_dataset(folder: str | Path, *, verify: bool = False) -> Dataset:
    """Open a folder that `prepare` finished.

    Raises UserError when it is no dataset, or a file is missing or of the wrong size. `verify` also reads
    every file and compares its sha256 with the manifest's.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    size = np.dtype(manifest.dtype).itemsize
    for shards in manifest.splits.values():
        for shard in shards:
            _check(folder / shard.file, shard.tokens * size, shard.sha256 if verify else None)
    if (expected := manifest.tokenizer["sha256"]) is not None:
        _check(folder / TOKENIZER_FILE, manifest.tokenizer["bytes"], expected if verify else None)
    return Dataset(folder, manifest)


def _check(path: Path, size: int, sha256: str | None) -> None:
    advice = "remove the folder and prepare the dataset again"
    try:
        found = path.stat().st_size
        if found != size:
            raise UserError(f"{path} is corrupt: {found} bytes, the manifest says {size}; {advice}")
        if sha256 is not None and file_sha256(path) != sha256:
            raise UserError(f"{path} is corrupt: its sha256 differs from the manifest's; {advice}")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; {advice}") from None


def file_sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
