"""Recall, memorization and compression after MAD: Poli et al., "Mechanistic Design and Scaling of Hybrid
Architectures" (arXiv 2403.17844), section 3. Its sixth task, selective copying, is in `copying`.

Batches of each are a pure function of (seed, step), with inputs and targets int64, (batch_size, length).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from asiarch.models.language_model import IGNORED_TARGET, LanguageModel

FACTS_SEED = 2403_17844  # one table of facts for all: trained on and asked for


@dataclass(frozen=True)
class Recall:
    """Key-value pairs, noise between them; where a key comes again, its value is asked for.

    Args:
        vocabulary: tokens in all: keys, values, and where there is noise as many noise tokens, in equal parts.
        noise: share of the tokens that are noise.
        length: tokens in a sequence.
        batch_size: sequences in a batch.
        seed: of the stream; two seeds give independent batches.
    """

    vocabulary: int
    noise: float
    length: int
    batch_size: int
    seed: int

    @property
    def keys(self) -> int:
        """How many keys there are, and as many values."""
        return self.vocabulary // (3 if self.noise else 2)

    @property
    def chance(self) -> float:
        """The accuracy of guessing among all values."""
        return 1 / self.keys

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, step]))
        inputs = np.empty((self.batch_size, self.length), np.int64)
        targets = np.full_like(inputs, IGNORED_TARGET)
        noises = round(self.noise * self.length)
        pairs = (self.length - noises) // 2
        noises = self.length - 2 * pairs
        for row in range(self.batch_size):
            table = rng.integers(self.keys, 2 * self.keys, self.keys)
            keys = rng.integers(0, self.keys, pairs)
            # each unit is a pair or one noise token
            is_pair = rng.permutation(np.repeat([True, False], [pairs, noises]))
            starts = np.concatenate([[0], np.cumsum(np.where(is_pair, 2, 1))[:-1]])
            places = starts[is_pair]
            inputs[row, starts[~is_pair]] = self._noise(rng, noises)
            inputs[row, places] = keys
            inputs[row, places + 1] = table[keys]
            again = np.ones(pairs, bool)
            again[np.unique(keys, return_index=True)[1]] = False
            targets[row, places[again]] = table[keys[again]]
        return inputs, targets

    def _noise(self, rng: np.random.Generator, count: int) -> np.ndarray:
        # an odd length without noise has one token left over, of any key
        first = 2 * self.keys if self.noise else 0
        return rng.integers(first, first + self.keys, count)


@dataclass(frozen=True)
class FuzzyRecall:
    """Recall where keys and values are runs of one to `longest` tokens; no key begins another one.

    Where a key comes again, each token of its value is asked for.

    Args:
        pairs: different keys in a sequence.
        longest: tokens in a key or a value, at most.
        vocabulary: tokens in all, those of keys and those of values in equal halves.
        length, batch_size, seed: as in `Recall`.
    """

    pairs: int
    longest: int
    vocabulary: int
    length: int
    batch_size: int
    seed: int

    @property
    def chance(self) -> float:
        """The accuracy of guessing among all tokens of values."""
        return 1 / (self.vocabulary // 2)

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, step]))
        inputs = np.empty((self.batch_size, self.length), np.int64)
        targets = np.full_like(inputs, IGNORED_TARGET)
        for row in range(self.batch_size):
            keys = self._keys(rng)
            values = [self._run(rng, self.vocabulary // 2) for _ in keys]
            place, seen = 0, set[int]()
            while place < self.length:
                entry = int(rng.integers(self.pairs))
                for token, asked in _entry(keys[entry], values[entry], entry in seen):
                    if place < self.length:
                        inputs[row, place], targets[row, place] = token, asked
                        place += 1
                seen.add(entry)
        return inputs, targets

    def _keys(self, rng: np.random.Generator) -> list[tuple[int, ...]]:
        keys: list[tuple[int, ...]] = []
        while len(keys) < self.pairs:
            key = self._run(rng, 0)
            if not any(key[: len(other)] == other or other[: len(key)] == key for other in keys):
                keys.append(key)
        return keys

    def _run(self, rng: np.random.Generator, first: int) -> tuple[int, ...]:
        count = rng.integers(1, self.longest + 1)
        return tuple(rng.integers(first, first + self.vocabulary // 2, count).tolist())


def _entry(key: tuple[int, ...], value: tuple[int, ...], known: bool) -> list[tuple[int, int]]:
    """The tokens of a key and its value, each with what is asked for after it."""
    tokens = [*key, *value]
    following = [*tokens[1:], IGNORED_TARGET]
    asked = [known and index >= len(key) - 1 for index in range(len(tokens))]
    return [
        (t, next_ if ask else IGNORED_TARGET) for t, next_, ask in zip(tokens, following, asked, strict=True)
    ]


@dataclass(frozen=True)
class Memorization:
    """Keys, each followed by a gap that its value belongs in: facts that are nowhere in the context.

    Args:
        vocabulary: tokens in all: the gap, then keys and values in equal parts.
        length, batch_size, seed: as in `Recall`.
    """

    vocabulary: int
    length: int
    batch_size: int
    seed: int

    @property
    def keys(self) -> int:
        """How many facts there are."""
        return (self.vocabulary - 1) // 2

    @property
    def chance(self) -> float:
        """The accuracy of guessing among all values."""
        return 1 / self.keys

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, step]))
        values = np.random.default_rng(FACTS_SEED).permutation(self.keys) + 1 + self.keys
        keys = rng.integers(0, self.keys, (self.batch_size, self.length // 2))
        inputs = np.zeros((self.batch_size, self.length), np.int64)
        targets = np.full_like(inputs, IGNORED_TARGET)
        inputs[:, : 2 * keys.shape[1] : 2] = keys + 1
        targets[:, 1 : 2 * keys.shape[1] : 2] = values[keys]
        return inputs, targets


@dataclass(frozen=True)
class Compression:
    """Random tokens that end in a mark, from whose state alone all of them are asked back; see `Decoded`.

    Args:
        vocabulary: tokens in all: the mark and the symbols.
        length, batch_size, seed: as in `Recall`.
    """

    vocabulary: int
    length: int
    batch_size: int
    seed: int

    @property
    def chance(self) -> float:
        """The accuracy of guessing among all symbols."""
        return 1 / (self.vocabulary - 1)

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, step]))
        inputs = rng.integers(1, self.vocabulary, (self.batch_size, self.length))
        inputs[:, -1] = 0
        targets = inputs.copy()
        targets[:, -1] = IGNORED_TARGET
        return inputs, targets


class Decoded(nn.Module):
    """Predicts the token of every place from the language model's last hidden state and the place alone.

    A network of one hidden layer on the state and a learned embedding of the place, as in MAD.
    """

    def __init__(self, model: LanguageModel, length: int, seed: int) -> None:
        super().__init__()
        self.model = model
        size, vocabulary = model.config.hidden_size, model.config.vocab_size
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.places = nn.Embedding(length, size)
            self.decoder = nn.Sequential(
                nn.Linear(2 * size, 4 * size), nn.GELU(), nn.Linear(4 * size, vocabulary)
            )

    def forward(self, tokens: Tensor, targets: Tensor | None = None) -> Tensor:
        """As `LanguageModel.forward`: logits (B, L, vocabulary), or with targets the mean loss in nats."""
        last = self.model.hidden(tokens)[:, -1:].expand(-1, tokens.shape[1], -1)
        places = self.places(torch.arange(tokens.shape[1], device=tokens.device)).expand_as(last)
        logits: Tensor = self.decoder(torch.cat([last, places], dim=-1))
        if targets is None:
            return logits
        return nn.functional.cross_entropy(
            logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED_TARGET
        )
