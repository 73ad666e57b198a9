"""Text to shards of tokens: read, drop duplicates, choose the split, tokenise, write. Resumes after a crash.

While it runs, `OUT/.prepare/` holds the record of what counts so far and the hashes of the documents seen:
8 bytes a document, and 200 more with `near_duplicates`, on disk and in memory. The rest of the memory needed
does not grow with the corpus. The output depends on sources and arguments, not on how often it was killed.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from asiarch.hpc.data.dataset import TOKENIZER_FILE
from asiarch.hpc.data.deduplication import first_occurrences
from asiarch.hpc.data.documents import Piece, Position, read_documents
from asiarch.hpc.data.encoding import Encoded, Encoder, encoded, usable_cores
from asiarch.hpc.data.manifest import FILE_NAME, SPLITS, Manifest, read_manifest
from asiarch.hpc.data.plan import Plan, list_sources, make_plan, require_same_arguments
from asiarch.hpc.data.shards import HashLog, SplitWriter
from asiarch.hpc.data.sources import walk
from asiarch.hpc.data.tokenizer import tokenizer_hash
from asiarch.hpc.locks import try_lock
from asiarch.models.errors import UserError
from asiarch.results.files import atomic_write_bytes, atomic_write_text, fsync

WORK_FOLDER: Final = ".prepare"
SKIPPED_LISTED: Final = 1000
SHARD_TOKENS: Final = 64_000_000

_RECORD_SECONDS: Final = 30.0
_WORKER_BYTES: Final = 16_000_000  # for less, starting another process does not pay


@dataclass(frozen=True)
class Progress:
    """How far a preparation is. Counts include earlier, killed runs; `tokens_per_s` is this run's."""

    documents: int
    tokens: int
    bytes_read: int
    bytes_total: int
    tokens_per_s: float


def prepare(
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    tokenizer: str | Path = "bytes",
    validation: float = 0.02,
    test: float = 0.02,
    near_duplicates: bool = False,
    seed: int = 0,
    shard_tokens: int = SHARD_TOKENS,
    suffixes: Sequence[str] = (),
    text_column: str = "text",
    workers: int | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Manifest:
    """Make the dataset `out` from files, folders, or the word `stdlib` (Python's own sources).

    Files are plain text, JSON lines or Parquet (see `formats`); of the latter two the text stands in
    `text_column`. `workers` are processes, all cores where None; the output does not depend on their number.

    A document's split follows from a hash of its text, whitespace normalised, and `seed`. Of documents that
    are equal after normalising the first is kept; with `near_duplicates` also of those that share some 80% of
    their 5-word shingles (see `deduplication.band_hashes`). `validation` and `test` are fractions of the
    documents; 0 leaves a split out. `suffixes` limits what is taken from folders. On a folder that the same
    arguments finished, it does nothing; killed and called again, it goes on.

    Raises UserError for bad arguments, sources or tokenizers, a split that would be empty, and an `out` that
    holds anything else. Bad files and rows inside folders are skipped, counted and listed in the manifest.
    """
    fractions = {"validation": validation, "test": test}
    plan = make_plan(
        sources, Path(out), tokenizer, fractions, near_duplicates, seed, shard_tokens, suffixes, text_column
    )
    if (plan.out / FILE_NAME).exists():
        return _finished(plan)
    listing = list_sources(plan.sources)
    try:
        with _claimed(plan):
            # another process may have finished it between the question above and the lock
            if (plan.out / FILE_NAME).exists():
                return _finished(plan)
            return _Preparation(plan, listing, workers).run(progress or (lambda _: None))
    except OSError as error:
        raise UserError(f"writing {plan.out} failed: {error}; run the same command again to go on") from None
    except BrokenProcessPool:
        raise UserError(
            f"a worker process that prepares {plan.out} was killed, perhaps for want of memory; the same command"
            " with a smaller --workers goes on"
        ) from None


def _finished(plan: Plan) -> Manifest:
    manifest = read_manifest(plan.out)
    require_same_arguments(plan, manifest.arguments)
    shutil.rmtree(plan.out / WORK_FOLDER, ignore_errors=True)
    return manifest


@contextmanager
def _claimed(plan: Plan) -> Iterator[None]:
    """Make the folder and lock it for this process."""
    out, work = plan.out, plan.out / WORK_FOLDER
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is not a folder")
    if out.exists() and not work.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty and holds no dataset; choose another --out")
    work.mkdir(parents=True, exist_ok=True)
    handle = os.open(work / "lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if not try_lock(handle):
            raise UserError(f"another process is preparing {out}; wait for it")
        yield
    finally:
        os.close(handle)


class _Preparation:
    """The work on one folder, from its last record on."""

    def __init__(self, plan: Plan, listing: dict[str, Any], workers: int | None) -> None:
        self.plan = plan
        self.work = plan.out / WORK_FOLDER
        self.listing = listing
        self.bytes_total = sum(entry["bytes"] for entry in listing["sources"])
        enough = max(1, self.bytes_total // _WORKER_BYTES)
        self.workers = min(usable_cores(), enough) if workers is None else workers
        self.dtype = "<u2" if plan.tokenizer.vocab_size <= 2**16 else "<u4"
        record = self._read_record()
        self.position = Position(*record["position"])
        self.documents: int = record["documents"]
        self.bytes_read: int = record["bytes_read"]
        self.dropped: dict[str, int] = record["dropped"]
        self.skipped: dict[str, Any] = record["skipped"]
        self.writers = {split: self._writer(split) for split in SPLITS}
        for split, writer in self.writers.items():
            if split in record["writers"]:
                writer.restore(record["writers"][split])
        self.seen = HashLog(self.work / "documents.bin", record["seen"])
        self.bands = HashLog(self.work / "bands.bin", record["bands"])

    def run(self, progress: Callable[[Progress], None]) -> Manifest:
        """Read on from the record to the end, and write the manifest."""
        try:
            self._save_record()
            self._read(progress)
            return self._finish()
        except UserError:
            # what mends it changes the sources or the arguments, so nothing here could be gone on with
            self._discard()
            raise
        finally:
            self._close()

    def _read(self, progress: Callable[[Progress], None]) -> None:
        started, tokens_before = time.monotonic(), self._tokens()
        saved = started
        self._report(progress, 0.0)
        pieces = read_documents(walk(self.plan.sources), self.position, self.plan.text_column)
        encoder = Encoder(self.plan.tokenizer, self.plan.seed, self.plan.near_duplicates, self.dtype)
        for batch, documents in encoded(pieces, encoder, self.workers):
            shards = self._finished_shards()
            self._take(batch, documents)
            now = time.monotonic()
            if self._finished_shards() > shards or now - saved > _RECORD_SECONDS:
                self._save_record()
                saved = now
            self._report(progress, (self._tokens() - tokens_before) / max(now - started, 1e-9))

    def _take(self, batch: list[Piece], documents: Encoded) -> None:
        for piece in batch:
            if piece.text is None:
                self._skip(piece)
        self.documents += len(documents.places)
        self.position = batch[-1].position
        self.bytes_read = batch[-1].read
        ends = np.cumsum(documents.counts)
        for index in self._new(documents):
            ids = documents.ids[ends[index] - documents.counts[index] : ends[index]]
            self._split_writer(documents.places[index]).append(ids, int(documents.sizes[index]))

    def _new(self, documents: Encoded) -> np.ndarray:
        """The indices of the documents not seen before."""
        identities = documents.identities[:, None]
        new = first_occurrences(identities, self.seen.known)
        self.seen.add(identities[new])
        self.dropped["exact"] += int((~new).sum())
        chosen = np.flatnonzero(new)
        if self.plan.near_duplicates and chosen.size:
            bands = documents.bands[chosen]
            new = first_occurrences(bands, self.bands.known)
            self.bands.add(bands[new])
            self.dropped["near"] += int((~new).sum())
            chosen = chosen[new]
        return chosen

    def _split_writer(self, place: float) -> SplitWriter:
        validation, test = self.plan.fractions["validation"], self.plan.fractions["test"]
        if place < validation:
            return self.writers["validation"]
        return self.writers["test" if place < validation + test else "train"]

    def _skip(self, piece: Piece) -> None:
        self.skipped["count"] += 1
        reasons = self.skipped["reasons"]
        reasons[piece.reason] = reasons.get(piece.reason, 0) + 1
        if len(self.skipped["first"]) < SKIPPED_LISTED:
            self.skipped["first"].append(f"{piece.name}: {piece.reason}")

    def _finish(self) -> Manifest:
        for writer in self.writers.values():
            writer.finish_shard()
        self._refuse_empty_splits()
        plan, tokenizer = self.plan, self.plan.tokenizer
        manifest = Manifest(
            tokenizer={
                "name": tokenizer.name,
                "sha256": tokenizer_hash(tokenizer),
                "bytes": len(tokenizer.content or b""),
            },
            vocab_size=tokenizer.vocab_size,
            dtype=self.dtype,
            end_id=tokenizer.end_id,
            splits={split: tuple(writer.finished) for split, writer in self.writers.items()},
            sources=self.listing["sources"],
            arguments=plan.identity,
            dropped=self.dropped,
            skipped=self.skipped,
        )
        if tokenizer.content is not None:
            self._place(TOKENIZER_FILE, tokenizer.content)
        self._place(FILE_NAME, manifest.to_json().encode())
        shutil.rmtree(self.work)
        return manifest

    def _place(self, name: str, content: bytes) -> None:
        # made in the work folder, so that a crash leaves no temporary file beside the shards
        atomic_write_bytes(self.work / name, content)
        (self.work / name).replace(self.plan.out / name)
        fsync(self.plan.out)

    def _refuse_empty_splits(self) -> None:
        kept = sum(shard.documents for writer in self.writers.values() for shard in writer.finished)
        for split, writer in self.writers.items():
            fraction = self.plan.fractions.get(split, 1 - sum(self.plan.fractions.values()))
            if fraction and not writer.finished:
                option = "lower --validation and --test" if split == "train" else f"raise --{split}"
                raise UserError(
                    f"the {split} split would be empty: {kept} distinct documents, fraction {fraction:g};"
                    f" give more documents, or {option}"
                )

    def _close(self) -> None:
        for writer in self.writers.values():
            writer.close()
        self.seen.close()
        self.bands.close()

    def _discard(self) -> None:
        self._close()
        for split in SPLITS:
            for path in self.plan.out.glob(f"{split}-*.bin"):
                path.unlink()
        shutil.rmtree(self.work)
        if not any(self.plan.out.iterdir()):
            self.plan.out.rmdir()

    def _writer(self, split: str) -> SplitWriter:
        plan = self.plan
        return SplitWriter(plan.out, split, self.dtype, plan.tokenizer.end_id, plan.shard_tokens)

    def _finished_shards(self) -> int:
        return sum(len(writer.finished) for writer in self.writers.values())

    def _tokens(self) -> int:
        return sum(writer.tokens for writer in self.writers.values())

    def _report(self, progress: Callable[[Progress], None], tokens_per_s: float) -> None:
        progress(Progress(self.documents, self._tokens(), self.bytes_read, self.bytes_total, tokens_per_s))

    def _save_record(self) -> None:
        record = {
            "arguments": self.plan.identity,
            "listing": self.listing["sha256"],
            "position": self.position,
            "documents": self.documents,
            "bytes_read": self.bytes_read,
            "dropped": self.dropped,
            "skipped": self.skipped,
            "writers": {split: writer.record() for split, writer in self.writers.items()},
            "seen": self.seen.record(),
            "bands": self.bands.record(),
        }
        # the shards' names must be on the disk before the record that counts on them
        fsync(self.plan.out)
        atomic_write_text(self.work / "record.json", json.dumps(record))

    def _read_record(self) -> dict[str, Any]:
        path = self.work / "record.json"
        if not path.exists():
            return {
                "position": (0, 0),
                "documents": 0,
                "bytes_read": 0,
                "dropped": {"exact": 0, "near": 0},
                "skipped": {"count": 0, "reasons": {}, "first": []},
                "writers": {},
                "seen": 0,
                "bands": 0,
            }
        record: dict[str, Any] = json.loads(path.read_text())
        require_same_arguments(self.plan, record["arguments"])
        if record["listing"] != self.listing["sha256"]:
            raise UserError(
                f"the sources changed since the preparation of {self.plan.out} was interrupted;"
                " remove it and run again"
            )
        return record
