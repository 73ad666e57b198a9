"""Multi-query associative recall: what a mixer can look up from its context.

Arora et al., "Zoology: Measuring and Improving Recall in Efficient Language Models" (arXiv 2312.04927). A
sequence opens with key-value pairs, all keys different; later each key comes again, and the next token to
predict there is its value.
"""

from dataclasses import dataclass

import numpy as np

from asiarch.models.language_model import IGNORED_TARGET

FILLER = 0
# Zoology places queries by a power law of this exponent: most come soon after the pairs
GAP_POWER = 0.01


@dataclass(frozen=True)
class MQAR:
    """A seeded generator of MQAR batches.

    Args:
        pairs: key-value pairs in a sequence.
        vocabulary: tokens in all: the filler, then keys and values in equal halves.
        length: tokens in a sequence; at least four for each pair.
        batch_size: sequences in a batch.
        seed: of the stream; two seeds give independent batches.
    """

    pairs: int
    vocabulary: int
    length: int
    batch_size: int
    seed: int

    @property
    def chance(self) -> float:
        """The accuracy of guessing among all values."""
        return 1 / len(self._values)

    @property
    def _keys(self) -> np.ndarray:
        return np.arange(1, 1 + (self.vocabulary - 1) // 2)

    @property
    def _values(self) -> np.ndarray:
        return np.arange(1 + (self.vocabulary - 1) // 2, self.vocabulary)

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Batch `step`: inputs and targets, int64, (batch_size, length); targets are -100 off the queries."""
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, step]))
        inputs = np.full((self.batch_size, self.length), FILLER)
        targets = np.full((self.batch_size, self.length), IGNORED_TARGET)
        places = (self.length - 2 * self.pairs) // 2
        weights = GAP_POWER * np.arange(1, places + 1) ** (GAP_POWER - 1)
        weights /= weights.sum()
        for row in range(self.batch_size):
            keys = rng.choice(self._keys, self.pairs, replace=False)
            values = rng.choice(self._values, self.pairs)
            inputs[row, 0 : 2 * self.pairs : 2] = keys
            inputs[row, 1 : 2 * self.pairs : 2] = values
            queries = 2 * self.pairs + 2 * rng.choice(places, self.pairs, replace=False, p=weights)
            inputs[row, queries] = keys
            targets[row, queries] = values
        return inputs, targets
