"""Parts of records for the tests."""

from collections.abc import Sequence

import numpy as np

from asiarch.results.record import LossCurve


def loss_curve(tokens: Sequence[int], loss: Sequence[float]) -> LossCurve:
    """A held-out curve; what is not given follows from the loss."""
    values = np.array(loss, np.float64)
    return LossCurve(np.array(tokens, np.int64), values, values / 100, values / 3, np.full(len(loss), 16))
