"""State tracking: the product of all elements of a group so far, at every place.

Merrill, Petty and Sabharwal, "The Illusion of State in State-Space Models" (arXiv 2404.08819): the word problem
of S5 needs computation in sequence that diagonal linear recurrences lack. Parity is the word problem of the
group with two elements; Grazzi et al. (arXiv 2411.12537) show that it takes transitions with negative
eigenvalues, and S3 products of two reflections.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations

import numpy as np

MOVED = {"parity": 2, "s3": 3, "s5": 5}  # how many things the group's elements permute


@lru_cache
def multiplication_table(group: str) -> np.ndarray:
    """(elements, elements) int64: the number of `a` followed by `b`, elements in lexical order."""
    elements = list(permutations(range(MOVED[group])))
    number = {element: index for index, element in enumerate(elements)}
    return np.array([[number[tuple(b[place] for place in a)] for b in elements] for a in elements])


@dataclass(frozen=True)
class WordProblem:
    """A seeded generator of batches: inputs are random elements, targets the products of all up to here.

    Args:
        group: parity (two elements), s3 (six) or s5 (120).
        length: tokens in a sequence.
        batch_size: sequences in a batch.
        seed: of the stream; two seeds give independent batches.
    """

    group: str
    length: int
    batch_size: int
    seed: int

    @property
    def vocabulary(self) -> int:
        """The number of the group's elements."""
        return len(multiplication_table(self.group))

    @property
    def chance(self) -> float:
        """The accuracy of guessing among all elements."""
        return 1 / self.vocabulary

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Batch `step`: inputs and targets, int64, (batch_size, length)."""
        table = multiplication_table(self.group)
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, step]))
        inputs = rng.integers(0, self.vocabulary, (self.batch_size, self.length))
        targets = inputs.copy()
        for place in range(1, self.length):
            targets[:, place] = table[targets[:, place - 1], inputs[:, place]]
        return inputs, targets
