"""What is worked out for each document by itself: hashes and token ids, on all cores.

The results come in the order of the documents, so what is written does not depend on the number of workers.
"""

import ctypes
import itertools
import os
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Final, NamedTuple

import numpy as np

from asiarch.hpc.data.deduplication import band_hashes, document_hash, normalise
from asiarch.hpc.data.documents import Piece
from asiarch.hpc.data.tokenizer import ByteTokenizer, FileTokenizer, Tokenizer

_BATCH_BYTES: Final = 1 << 20
_BATCH_PIECES: Final = 4096
_AHEAD: Final = 3  # batches under way for each worker
_PR_SET_PDEATHSIG: Final = 1


class Encoded(NamedTuple):
    """What is known of N documents.

    identities: (N,) uint64. places: (N,) float64 in [0, 1), pick the split. bands: (N, 25) uint64, or (N, 0)
    where near duplicates are not asked for. sizes: (N,) int64, the bytes of each text. counts: (N,) int64, the
    tokens of each. ids: all tokens in a row, of the shards' dtype.
    """

    identities: np.ndarray
    places: np.ndarray
    bands: np.ndarray
    sizes: np.ndarray
    counts: np.ndarray
    ids: np.ndarray


@dataclass(frozen=True)
class Encoder:
    """The settings of the work; what a worker process is started with."""

    tokenizer: Tokenizer
    seed: int
    near_duplicates: bool
    dtype: str

    def __call__(self, texts: Sequence[str]) -> Encoded:
        """Hashes and tokens of some texts."""
        normalised = [normalise(text) for text in texts]
        hashes = [document_hash(text, self.seed) for text in normalised]
        ids = self.tokenizer.encode(texts)
        bands = [band_hashes(text) for text in normalised] if self.near_duplicates else []
        return Encoded(
            identities=np.array([identity for identity, _ in hashes], np.uint64),
            places=np.array([place for _, place in hashes], np.float64),
            bands=np.stack(bands) if bands else np.empty((len(texts), 0), np.uint64),
            sizes=np.array([len(text.encode()) for text in texts], np.int64),
            counts=np.array([len(row) for row in ids], np.int64),
            ids=np.concatenate([row.astype(self.dtype) for row in ids]) if ids else np.empty(0, self.dtype),
        )


def usable_cores() -> int:
    """The cores that this process may run on; inside a Slurm job those of its allocation."""
    return len(os.sched_getaffinity(0))


def encoded(pieces: Iterator[Piece], encoder: Encoder, workers: int) -> Iterator[tuple[list[Piece], Encoded]]:
    """The pieces in batches, each with what is known of its documents.

    Args:
        workers: processes; with one, this process does the work.

    Raises:
        BrokenProcessPool: a worker was killed.
    """
    batches = iter(lambda: _next_batch(pieces), [])
    if workers == 1:
        for batch in batches:
            yield batch, encoder(_texts(batch))
        return
    pool = ProcessPoolExecutor(
        workers,
        mp_context=get_context("spawn"),
        initializer=_start_worker,
        initargs=(os.getpid(), _packed(encoder)),
    )
    try:
        waiting: deque[tuple[list[Piece], Future[Encoded]]] = deque()
        for batch in itertools.islice(batches, workers * _AHEAD):
            waiting.append((batch, pool.submit(_work, _texts(batch))))
        while waiting:
            done, future = waiting.popleft()
            yield done, future.result()
            if batch := next(batches, []):
                waiting.append((batch, pool.submit(_work, _texts(batch))))
    finally:
        pool.shutdown(cancel_futures=True)


def _next_batch(pieces: Iterator[Piece]) -> list[Piece]:
    batch: list[Piece] = []
    size = 0
    for piece in itertools.islice(pieces, _BATCH_PIECES):
        batch.append(piece)
        size += len(piece.text or "")
        if size >= _BATCH_BYTES:
            break
    return batch


def _texts(batch: list[Piece]) -> list[str]:
    return [piece.text for piece in batch if piece.text is not None]


# the tokenizer's model does not travel between processes, its file does
_Packed = tuple[bytes | None, str, int, bool, str]


def _packed(encoder: Encoder) -> _Packed:
    tokenizer = encoder.tokenizer
    return tokenizer.content, tokenizer.name, encoder.seed, encoder.near_duplicates, encoder.dtype


_encoder: Encoder | None = None


def _start_worker(parent: int, packed: _Packed) -> None:
    global _encoder
    # the parent ends the workers, on Ctrl-C too; where it is killed, they are to die with it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    # one process a core is enough
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    content, name, seed, near_duplicates, dtype = packed
    tokenizer = ByteTokenizer() if content is None else FileTokenizer(content, name)
    _encoder = Encoder(tokenizer, seed, near_duplicates, dtype)


def _work(texts: list[str]) -> Encoded:
    assert _encoder is not None
    return _encoder(texts)
