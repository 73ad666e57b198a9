"""A needle in a haystack: one marked token to be given back at the end, at lengths never trained on.

Kamradt's test (github.com/gkamradt/LLMTest_NeedleInAHaystack) with symbols for words, as in RULER's synthetic form
(Hsieh et al., arXiv 2404.06654): trained at one length, scored at several times that.
"""

from dataclasses import dataclass

import numpy as np

from asiarch.models.language_model import IGNORED_TARGET

MARK = 0


@dataclass(frozen=True)
class Needle:
    """A seeded generator of batches: symbols, somewhere the mark and the needle, at the end the mark again.

    Args:
        vocabulary: tokens in all: the mark and the symbols, any of which may be the needle.
        length: tokens in a sequence.
        batch_size: sequences in a batch.
        seed: of the stream; two seeds give independent batches.
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
        """Batch `step`: inputs and targets, int64, (batch_size, length); one target a sequence, at its end."""
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, step]))
        inputs = rng.integers(1, self.vocabulary, (self.batch_size, self.length))
        targets = np.full_like(inputs, IGNORED_TARGET)
        rows = np.arange(self.batch_size)
        places = rng.integers(0, self.length - 2, self.batch_size)
        inputs[rows, places] = MARK
        inputs[:, -1] = MARK
        targets[:, -1] = inputs[rows, places + 1]
        return inputs, targets
