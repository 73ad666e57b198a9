"""When a training loss is too good to be true. The trial's watchdog asks, and the head again when it takes a result."""

from collections.abc import Sequence

from asiarch.hpc.failures import Implausible
from asiarch.results.record import TrainCurve

IN_A_ROW = 3  # log entries that must agree: one may be noise


def look_for_implausible_loss(
    steps: Sequence[int], losses: Sequence[float], reference: TrainCurve, margin: float | None, after: int
) -> None:
    """Raise Implausible at the first step where the loss has been too far below the reference's too often.

    Too far is more than the share `margin` below the reference's loss at the same step, too often three log
    entries in a row, all past step `after`. Both saw the same text in the same order. What was found holds for
    any longer log of the same training.
    """
    if margin is None:
        return
    usual = dict(zip(reference.step.tolist(), reference.loss.tolist(), strict=True))
    in_a_row = 0
    for step, loss in zip(steps, losses, strict=True):
        if step <= after or step not in usual:
            continue
        in_a_row = in_a_row + 1 if loss < (1 - margin) * usual[step] else 0
        if in_a_row == IN_A_ROW:
            raise Implausible(
                f"the training loss {loss:.4f} at step {step} is {1 - loss / usual[step]:.0%} below the reference's "
                f"{usual[step]:.4f}: a leak of later tokens until shown otherwise"
            )
