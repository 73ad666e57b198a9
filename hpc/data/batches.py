"""Tokens to batches: a pure function of (seed, step), so a resumed or a second trial sees the same data.

A split is read as windows of length + 1 tokens at a stride of `length` (each window's last token is the next
one's first), never across two shards. Each epoch visits every window once, in its own order.
"""

import numpy as np

from asiarch.hpc.data.dataset import Split
from asiarch.hpc.data.deduplication import mix
from asiarch.models.errors import UserError

_FEISTEL_ROUNDS = 6


def permute(positions: np.ndarray, count: int, key: int) -> np.ndarray:
    """Where a keyed permutation of range(count) takes `positions`, in memory that does not grow with `count`.

    A Feistel network on the smallest even number of bits that holds `count`, repeated while it leads outside
    (cycle walking: Black and Rogaway 2002, "Ciphers with arbitrary finite domains").
    positions: int64, any shape, each in [0, count); 1 <= count <= 2^62. Returns the same shape and dtype.
    """
    half = np.uint64(max(1, ((count - 1).bit_length() + 1) // 2))
    limit = np.uint64(count)
    rounds = mix(np.uint64(key % 2**64) ^ mix(np.arange(_FEISTEL_ROUNDS, dtype=np.uint64)))
    result = _feistel(np.atleast_1d(positions).astype(np.uint64), half, rounds)
    while (outside := result >= limit).any():
        result[outside] = _feistel(result[outside], half, rounds)
    return result.astype(np.int64).reshape(np.shape(positions))


def _feistel(values: np.ndarray, half: np.uint64, rounds: np.ndarray) -> np.ndarray:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = values >> half, values & mask
    for key in rounds:
        left, right = right, left ^ (mix(right ^ key) & mask)
    return (left << half) | right


class Windows:
    """The windows of a split: `count` of them, each of length + 1 tokens."""

    def __init__(self, split: Split, length: int) -> None:
        if length < 1:
            raise UserError(f"the length of a window must be at least 1, not {length}")
        self.split = split
        self.length = length
        per_shard = [max(0, tokens - 1) // length for tokens in split.shard_tokens]
        self._ends = np.cumsum(per_shard, dtype=np.int64)
        self.count = int(self._ends[-1])
        if self.count == 0:
            raise UserError(
                f"the {split.name} split of {split.folder} has {split.tokens} tokens, fewer than one window"
                f" of {length} + 1 in any shard; use a shorter length or more text"
            )

    def read(self, windows: np.ndarray) -> np.ndarray:
        """(N,) window numbers in [0, count) -> (N, length + 1) int64 token ids."""
        shards = np.searchsorted(self._ends, windows, side="right")
        firsts = np.concatenate([[0], self._ends])[shards]
        tokens = np.empty((len(windows), self.length + 1), np.int64)
        for row, (shard, start) in enumerate(zip(shards, (windows - firsts) * self.length, strict=True)):
            tokens[row] = self.split.shards[shard][start : start + self.length + 1]
        return tokens


class Batches:
    """The endless sequence of training batches; `batches[step]` is this rank's part of batch `step`.

    Rank r of `world` gets rows r * batch_size / world and on of the global batch, which is the same for every
    world. Raises UserError when no window fits or `world` does not divide `batch_size`.
    """

    def __init__(
        self, split: Split, length: int, batch_size: int, seed: int, *, rank: int = 0, world: int = 1
    ) -> None:
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} is not in [0, {world})")
        if batch_size < 1 or batch_size % world:
            raise UserError(f"the batch size {batch_size} is not a positive multiple of the {world} ranks")
        self.windows = Windows(split, length)
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world = world

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """(inputs, targets), each (batch_size / world, length) int64; targets are one token further on."""
        if step < 0:
            raise IndexError(f"step {step} is negative")
        rows = self.batch_size // self.world
        first = step * self.batch_size + self.rank * rows
        return _shifted(self.windows.read(self._order(np.arange(first, first + rows, dtype=np.int64))))

    def _order(self, positions: np.ndarray) -> np.ndarray:
        """The window at each position of the endless sequence."""
        count = self.windows.count
        result = np.empty_like(positions)
        epochs = positions // count
        for epoch in np.unique(epochs):
            key = np.random.SeedSequence([self.seed, int(epoch)]).generate_state(1, np.uint64)
            here = epochs == epoch
            result[here] = permute(positions[here] % count, count, int(key[0]))
        return result


def document_boundaries(inputs: np.ndarray, end_id: int) -> np.ndarray:
    """Where documents begin in the rows of `inputs` laid end to end, and their length: int32 (documents + 1,).

    A document begins with the end token of the one before, which says that something new begins: so no target
    lies beyond its document, and a document's first token is learned too. A row begins one as well.
    inputs: (rows, length) int64.
    """
    begins = inputs == end_id
    begins[:, 0] = True
    return np.append(np.flatnonzero(begins), inputs.size).astype(np.int32)


def evaluation_windows(split: Split, length: int, tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """(inputs, targets), each (N, length) int64: tokens // length windows spread evenly over the split.

    The same for every candidate, seed and rank. N is smaller when the split has fewer windows. Raises
    UserError when `tokens` or the split is shorter than a window.
    """
    windows = Windows(split, length)
    if tokens < length:
        raise UserError(f"{tokens} evaluation tokens are fewer than one window of {length}")
    count = min(tokens // length, windows.count)
    # as Python integers: count * windows.count may pass 2^63
    chosen = [number * windows.count // count for number in range(count)]
    return _shifted(windows.read(np.array(chosen, np.int64)))


def _shifted(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.ascontiguousarray(tokens[:, :-1]), np.ascontiguousarray(tokens[:, 1:])
