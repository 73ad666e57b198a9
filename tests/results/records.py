"""Parts of records for the tests."""

import math
from collections.abc import Sequence

import numpy as np

from asiarch.results.record import LossCurve, SpeedTable


def loss_curve(tokens: Sequence[int], loss: Sequence[float]) -> LossCurve:
    """A held-out curve; what is not given follows from the loss."""
    values = np.array(loss, np.float64)
    return LossCurve(np.array(tokens, np.int64), values, values / 100, values / 3, np.full(len(loss), 16))


def speed_table(**changes: Sequence[float]) -> SpeedTable:
    """Speeds at two lengths, of a program that has no cache; keywords replace columns."""
    gap = [math.nan, math.nan]
    columns: dict[str, Sequence[float]] = {
        "length": [256, 1024],
        "rows": [8, 2],
        "repeats": [3, 3],
        "train_tokens_per_s": [1000.0, 900.0],
        "train_standard_error": [10.0, 20.0],
        "train_memory_bytes": [1e6, 1e6],
        "decode_tokens_per_s": gap,
        "decode_standard_error": gap,
        "decode_memory_bytes": gap,
    }
    kinds = {name: column.dtype for name, column in vars(SpeedTable.empty()).items()}
    return SpeedTable(**{name: np.array(values, kinds[name]) for name, values in (columns | changes).items()})
