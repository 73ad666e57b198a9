"""Selective copying: keep what matters, in order, and pass over what does not.

Gu and Dao, "Mamba" (arXiv 2312.00752), section 4.1: items lie at random places among blanks; at the end each
of as many marks asks for the next item. A mixer that treats all tokens alike, whatever they are, cannot do it.
"""

from dataclasses import dataclass

import numpy as np

from asiarch.models.language_model import IGNORED_TARGET

BLANK, MARK, FIRST_ITEM = 0, 1, 2


@dataclass(frozen=True)
class SelectiveCopying:
    """A seeded generator of batches.

    Args:
        items: to be copied in a sequence.
        vocabulary: tokens in all: a blank, a mark, and the items.
        length: tokens in a sequence, the marks at its end counted; at least twice `items`.
        batch_size: sequences in a batch.
        seed: of the stream; two seeds give independent batches.
    """

    items: int
    vocabulary: int
    length: int
    batch_size: int
    seed: int

    @property
    def chance(self) -> float:
        """The accuracy of guessing among all items."""
        return 1 / (self.vocabulary - FIRST_ITEM)

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Batch `step`: inputs and targets, int64, (batch_size, length); targets are -100 off the marks."""
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, step]))
        context = self.length - self.items
        inputs = np.full((self.batch_size, self.length), BLANK)
        targets = np.full((self.batch_size, self.length), IGNORED_TARGET)
        items = rng.integers(FIRST_ITEM, self.vocabulary, (self.batch_size, self.items))
        places = np.sort(rng.random((self.batch_size, context)).argsort(axis=1)[:, : self.items], axis=1)
        np.put_along_axis(inputs, places, items, axis=1)
        inputs[:, context:] = MARK
        targets[:, context:] = items
        return inputs, targets
