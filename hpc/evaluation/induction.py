"""Induction: a sequence comes again, and each next token is the one that followed before.

Olsson et al., "In-context Learning and Induction Heads" (arXiv 2209.11895), the test on repeated random tokens.
No token comes twice in the first half, so what followed it is certain.
"""

from dataclasses import dataclass

import numpy as np

from asiarch.models.language_model import IGNORED_TARGET


@dataclass(frozen=True)
class Induction:
    """A seeded generator of batches; the vocabulary has as many tokens as a sequence.

    Args:
        length: tokens in a sequence, even.
        batch_size: sequences in a batch.
        seed: of the stream; two seeds give independent batches.
    """

    length: int
    batch_size: int
    seed: int

    @property
    def vocabulary(self) -> int:
        return self.length

    @property
    def chance(self) -> float:
        """The accuracy of guessing among all tokens."""
        return 1 / self.vocabulary

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Batch `step`: inputs and targets, int64, (batch_size, length); targets lie in the second half alone."""
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, step]))
        half = self.length // 2
        first = rng.random((self.batch_size, self.vocabulary)).argsort(axis=1)[:, :half]
        inputs = np.concatenate([first, first], axis=1)
        targets = np.full_like(inputs, IGNORED_TARGET)
        targets[:, half:-1] = inputs[:, half + 1 :]
        return inputs, targets
