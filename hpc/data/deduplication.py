"""Equal and nearly equal documents: hashes, MinHash signatures, and a set of hashes at 8 bytes each."""

import hashlib
import zlib
from typing import Final

import numpy as np

SHINGLE_WORDS: Final = 5
BANDS: Final = 25
ROWS: Final = 9

_CHUNK = 512


def normalise(text: str) -> bytes:
    """The text with every run of whitespace made one space, and none at the ends; UTF-8."""
    return " ".join(text.split()).encode()


def document_hash(normalised: bytes, seed: int) -> tuple[int, float]:
    """(identity, position): 64 bits that tell documents apart, and a number in [0, 1) that picks the split.

    At 1e8 documents the chance that any two different ones share an identity is 0.03%.
    """
    digest = hashlib.blake2b(normalised, digest_size=16, key=str(seed).encode()).digest()
    # 53 bits: what a float holds exactly, so that 1.0 is never reached
    return int.from_bytes(digest[:8], "little"), (int.from_bytes(digest[8:], "little") >> 11) / 2**53


def band_hashes(normalised: bytes) -> np.ndarray:
    """(BANDS,) uint64. Documents that share one count as near duplicates.

    MinHash with banding (Broder 1997; Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", 3.4) over
    the set of 5-word shingles. With 25 bands of 9 rows, documents of Jaccard similarity s share a band with
    probability 1 - (1 - s^9)^25: 0.05 at s = 0.5, 0.22 at 0.6, 0.64 at 0.7, 0.97 at 0.8, 1.00 at 0.9.
    """
    shingles = _shingles(normalised)
    lowest = np.full(BANDS * ROWS, np.iinfo(np.uint64).max, np.uint64)
    # in chunks that stay in the processor's cache
    for start in range(0, len(shingles), _CHUNK):
        hashed = shingles[start : start + _CHUNK, None] * _FACTORS + _SUMMANDS
        np.minimum(lowest, hashed.min(axis=0), out=lowest)
    bands = np.arange(BANDS, dtype=np.uint64)
    for row in mix(lowest).reshape(BANDS, ROWS).T:
        bands = mix(bands ^ row)
    return bands


def _shingles(normalised: bytes) -> np.ndarray:
    """(max(1, words - 4),) uint64, a hash for each run of 5 words; of all words where there are fewer."""
    words = np.fromiter(map(zlib.crc32, normalised.split()), np.uint64)
    width = min(SHINGLE_WORDS, len(words))
    count = len(words) - width + 1
    hashed = np.full(count, width, np.uint64)
    for word in range(width):
        hashed = mix(hashed ^ words[word : word + count])
    return hashed


def mix(values: np.ndarray) -> np.ndarray:
    """A bijection of uint64; each output bit depends on all input bits (SplitMix64, Steele et al. 2014)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


_FACTORS = mix(np.arange(BANDS * ROWS, dtype=np.uint64)) | np.uint64(1)
_SUMMANDS = mix(np.arange(BANDS * ROWS, 2 * BANDS * ROWS, dtype=np.uint64))


class HashSet:
    """A growing set of uint64 at 8 bytes each: sorted runs, merged when of like length, so there are few."""

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []

    def contains(self, values: np.ndarray) -> np.ndarray:
        """Boolean, in the shape of `values`."""
        found = np.zeros(values.shape, bool)
        for run in self._runs:
            place = np.minimum(np.searchsorted(run, values), len(run) - 1)
            found |= run[place] == values
        return found

    def add(self, values: np.ndarray) -> None:
        """Add values of any shape."""
        if not values.size:
            return
        self._runs.append(np.unique(values))
        while len(self._runs) > 1 and len(self._runs[-2]) <= 2 * len(self._runs[-1]):
            last = self._runs.pop()
            self._runs[-1] = np.unique(np.concatenate([self._runs[-1], last]))


def first_occurrences(rows: np.ndarray, known: HashSet) -> np.ndarray:
    """Which rows of hashes (N, K) share none with `known` or an earlier row that is kept: (N,) bool."""
    keep: np.ndarray = np.logical_not(known.contains(rows).any(axis=1))
    here: set[int] = set()
    for index in np.flatnonzero(keep):
        row = rows[index].tolist()
        if here.isdisjoint(row):
            here.update(row)
        else:
            keep[index] = False
    return keep
