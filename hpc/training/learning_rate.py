"""Learning-rate schedules: pure functions of the number of the update, counted from 0."""

import math
from collections.abc import Callable

from asiarch.hpc.config import TrainingConfig

Schedule = Callable[[int], float]


def schedule(config: TrainingConfig, peak: float, total_steps: int) -> Schedule:
    """The schedule that a configuration names, over `total_steps` updates up to `peak`."""
    floor = config.min_learning_rate_ratio
    warmup = round(config.warmup * total_steps)
    if config.schedule == "cosine":
        return cosine(peak, floor, warmup, total_steps)
    return warmup_stable_decay(peak, floor, warmup, round(config.decay * total_steps), total_steps)


def cosine(peak: float, floor: float, warmup_steps: int, total_steps: int) -> Schedule:
    """Linear warm-up, then half a cosine down to `floor` x `peak` at `total_steps`."""

    def rate(step: int) -> float:
        if step < warmup_steps:
            return peak * (step + 1) / warmup_steps
        progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
        return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))

    return rate


def warmup_stable_decay(
    peak: float, floor: float, warmup_steps: int, decay_steps: int, total_steps: int
) -> Schedule:
    """Linear warm-up, a plateau at `peak`, then a line down to `floor` x `peak` over the last `decay_steps`.

    Hu et al., "MiniCPM", 2024, arXiv 2404.06395, with the linear decay of Hägele et al., arXiv 2405.18392.
    """

    def rate(step: int) -> float:
        if step < warmup_steps:
            return peak * (step + 1) / warmup_steps
        left = max(0, total_steps - step)
        if left >= decay_steps:
            return peak
        return peak * (floor + (1 - floor) * left / decay_steps)

    return rate
