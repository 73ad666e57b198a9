"""Stop a training that is not worth its time, or whose loss cannot be believed.

All that is looked at is the training log. So a verdict on a loss depends on nothing but the trial's numbers and
the reference's at the same rung and seed; those on speed, which deterministic campaigns do not look at, and on
memory depend on the machine too.
"""

import numpy as np

from asiarch.hpc.config import WatchdogConfig
from asiarch.hpc.failures import Diverged, MemoryGrowth, TooSlow
from asiarch.hpc.plausibility import IN_A_ROW, look_for_implausible_loss
from asiarch.hpc.training.trainer import Curves
from asiarch.results.record import TrainCurve

SETTLED = 5  # log entries after which memory and speed are steady


class Watchdog:
    """Looks at a training's log after each entry.

    Args:
        limits: the thresholds; one that is None is not looked at.
        warmup_steps: steps in which a loss says nothing yet.
        reference: the reference's log at the same rung and seed; None where there is none, or none yet.
    """

    def __init__(self, limits: WatchdogConfig, warmup_steps: int, reference: TrainCurve | None) -> None:
        self._limits = limits
        self._warmup = warmup_steps
        self._reference = reference

    def look(self, curves: Curves) -> None:
        """Raise Diverged, Implausible, TooSlow or MemoryGrowth where a threshold is passed."""
        self._look_for_divergence(curves)
        if self._reference is not None:
            look_for_implausible_loss(
                curves.step, curves.loss, self._reference, self._limits.implausible, self._warmup
            )
            self._look_at_speed(curves, self._reference)
        self._look_at_memory(curves)

    def _look_for_divergence(self, curves: Curves) -> None:
        allowed = self._limits.diverged
        if allowed is None or len(curves.loss) <= IN_A_ROW or curves.step[-IN_A_ROW] <= self._warmup:
            return
        lowest, recent = min(curves.loss), min(curves.loss[-IN_A_ROW:])
        if recent > allowed * lowest:
            raise Diverged(
                f"the training loss has stayed above {recent:.4f} since step {curves.step[-IN_A_ROW]}, more "
                f"than {allowed:g} times the lowest before, {lowest:.4f}"
            )

    def _look_at_speed(self, curves: Curves, reference: TrainCurve) -> None:
        allowed = self._limits.slower
        if allowed is None or len(curves.step) < SETTLED:
            return
        own = float(np.median(curves.tokens_per_s[-SETTLED:]))
        usual = float(np.median(reference.tokens_per_s))
        if own * allowed < usual:
            raise TooSlow(
                f"{own:.0f} tokens/s at step {curves.step[-1]}, less than 1/{allowed:g} of the reference's {usual:.0f}"
            )

    def _look_at_memory(self, curves: Curves) -> None:
        allowed = self._limits.memory_growth
        if allowed is None or len(curves.step) <= SETTLED:
            return
        early, now = curves.memory_bytes[SETTLED - 1], curves.memory_bytes[-1]
        if now > allowed * early:
            raise MemoryGrowth(
                f"memory grew from {early / 1e9:.2f} GB at step {curves.step[SETTLED - 1]} to {now / 1e9:.2f} GB "
                f"at step {curves.step[-1]}, more than {allowed:g} times"
            )
