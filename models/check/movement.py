"""The largest movement of outputs that should have stayed, and what a refusal says of it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from asiarch.models.check.parameters import rms
from asiarch.models.check.report import CheckResult, Measured, number
from asiarch.models.check.subject import Conditions, ProgramError


@dataclass(frozen=True)
class Movement:
    """The largest movement of an output that should stay: relative to its rms, and in units of rounding."""

    relative: float
    position: int
    excess: float
    what: str
    of: str


class Worst:
    """The largest movement seen, in units of what rounding explains."""

    def __init__(self) -> None:
        self.movement: Movement | None = None
        self.count = 0
        self.skipped: list[str] = []

    def see(self, base: Tensor, changed: Tensor, rounding: float, what: str) -> None:
        """Compare two outputs (length, hidden_size) that should be equal."""
        self.count += 1
        distance = (changed.double() - base.double()).abs().amax(-1)
        distance = torch.where(distance.isnan(), torch.inf, distance)
        position = int(distance.argmax())
        self.weigh(distance[position].item() / max(rms(base), 1e-30), position, rounding, what)

    def weigh(self, relative: float, position: int, rounding: float, what: str, of: str = "output") -> None:
        """Keep a movement where it is the largest so far. `of` names what moved, for the message."""
        if relative > 0 and (self.movement is None or relative / rounding > self.movement.excess):
            self.movement = Movement(relative, position, relative / rounding, what, of)

    def usable(self, base: Tensor, conditions: Conditions) -> bool:
        """Whether `base` can be compared with: other parameters may make an honest program overflow."""
        if torch.isfinite(base).all():
            return True
        if conditions.as_initialised:
            raise ProgramError(
                f"the output is NaN or infinite (batch {base.shape[0]}, length {base.shape[1]}, {conditions}). "
                "Usual causes: a state that grows at each step, exp of a sum over time"
            )
        self.skip(f"not finite: {conditions}")
        return False

    def skip(self, why: str) -> None:
        """Note what could not be looked at."""
        if why not in self.skipped:
            self.skipped.append(why)

    @property
    def refuses(self) -> bool:
        """Whether rounding does not explain the largest movement."""
        return self.movement is not None and self.movement.excess > 1

    def result(self, name: str, causes: str, measured: dict[str, Measured]) -> CheckResult:
        """Refused when rounding does not explain the largest movement."""
        worst = self.movement
        measured = {
            "movement": number(worst.relative if worst else 0.0),
            "interventions": self.count,
        } | measured
        if self.skipped:
            measured["skipped"] = self.skipped
        if worst is not None and self.refuses:
            measured |= {
                "changed": worst.what,
                "position": worst.position,
                "allowed": number(worst.relative / worst.excess),
            }
            message = (
                f"{worst.what} moved the {worst.of} at position {worst.position} by {worst.relative:.1e} "
                f"of its rms. Usual causes: {causes}"
            )
            return CheckResult(name, False, measured, message)
        if self.count == 0:
            return CheckResult(name, False, measured, "no run gave a finite output to compare")
        return CheckResult(name, True, measured)


def moved(base: Tensor, changed: Tensor, rounding: float) -> list[int]:
    """The positions of (length, hidden_size) that moved by more than rounding explains."""
    still = (changed.double() - base.double()).abs().amax(-1) <= rounding * max(rms(base), 1e-30)
    return torch.nonzero(~still).flatten().tolist()


def relative_difference(a: Tensor, b: Tensor) -> float:
    """Largest movement from a to b, relative to a's rms; infinite when it is NaN."""
    if not a.is_floating_point():
        return 0.0 if torch.equal(a, b) else float("inf")
    largest = (a.double() - b.double()).abs().max().item() if a.numel() else 0.0
    if largest != largest:
        return float("inf")
    return largest / max(rms(a), 1e-30) if largest else 0.0
