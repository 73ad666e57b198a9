"""Probes by intervention: an output must not know the future, the length it came in, or its neighbours.

A leak is looked for with the parameters as initialised and with noise added to them, since a gate that
starts at zero hides what is behind it until training opens it. Runs in float64, where rounding is no excuse,
see leaks of 1e-8 of the output; runs in float32 see those of 1e-4.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from asiarch.models.check.report import CheckResult, number
from asiarch.models.check.subject import NUDGE, SHAKE, Conditions, ProgramError, Subject, rms
from asiarch.models.contract import takes_cu_seqlens

# Lengths that no chunk size divides, and that some do; positions inside chunks of 16 to 256, and borders.
PAIR_RUNS = {2: (1,), 7: (3,), 63: (20, 62), 64: (32, 50), 65: (40, 64), 130: (65, 100, 129)}
SWEEPS = {
    130: (
        1,
        2,
        3,
        7,
        8,
        15,
        16,
        17,
        24,
        31,
        32,
        33,
        40,
        47,
        48,
        63,
        64,
        65,
        66,
        81,
        96,
        100,
        112,
        127,
        128,
        129,
    ),
    300: (100, 150, 190, 256, 257, 299),
}
PREFIXES = (1, 5, 33, 64, 65, 100)
DOCUMENTS = (1, 40, 64, 7, 130)  # lengths of documents packed into one row
LOUD = 8.0  # a change of this many times the input's rms shows leaks through maxima and sorting


@dataclass(frozen=True)
class Movement:
    """The largest movement of an output that should stay: relative to its rms, and in units of rounding."""

    relative: float
    position: int
    excess: float
    what: str


class _Worst:
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
        relative = distance[position].item() / max(rms(base), 1e-30)
        if relative > 0 and (self.movement is None or relative / rounding > self.movement.excess):
            self.movement = Movement(relative, position, relative / rounding, what)

    def result(self, name: str, causes: str, measured: dict[str, float | int | str | list]) -> CheckResult:
        """Refused when rounding does not explain the largest movement."""
        worst = self.movement
        measured = {
            "movement": number(worst.relative if worst else 0.0),
            "interventions": self.count,
        } | measured
        if self.skipped:
            measured["skipped"] = self.skipped
        if worst is not None and worst.excess > 1:
            measured["position"] = worst.position
            message = (
                f"{worst.what} moved the output at position {worst.position} by {worst.relative:.1e} "
                f"of its rms. Usual causes: {causes}"
            )
            return CheckResult(name, False, measured, message)
        if self.count == 0:
            return CheckResult(name, False, measured, "no run gave a finite output to compare")
        return CheckResult(name, True, measured)


def causal(subject: Subject) -> CheckResult:
    """Changing the input from t on leaves every output before t as it was."""
    worst = _Worst()
    last = subject.last_layer
    pairs = [
        Conditions(),
        Conditions(train=True, layer_idx=last),
        Conditions(noise=NUDGE, layer_idx=last),
        Conditions(noise=NUDGE, train=True),
    ]
    for conditions in pairs:
        for length, positions in PAIR_RUNS.items():
            _intervene(subject, conditions, length, positions, worst)
    leaks: dict[int, set[int]] = {}
    for plain in (Conditions(), Conditions(noise=NUDGE, layer_idx=last), Conditions(noise=SHAKE)):
        conditions = subject.precise(plain)
        for length, positions in SWEEPS.items():
            suspects = _sweep(subject, conditions, length, positions, worst)
            found = _intervene(subject, conditions, length, suspects, worst) if suspects else {}
            leaks = leaks or {t: moved for t, moved in found.items() if moved}
    lengths = sorted(set(PAIR_RUNS) | set(SWEEPS))
    return worst.result(
        "causal", _likely_causes(leaks), {"lengths": lengths, "float64": subject.float64_note}
    )


def prefix(subject: Subject) -> CheckResult:
    """The output for a prefix does not depend on the length that it came in."""
    worst = _Worst()
    for plain in (Conditions(), Conditions(noise=NUDGE, layer_idx=subject.last_layer)):
        for conditions in {plain, subject.precise(plain)}:
            inputs = subject.inputs(2, max(PREFIXES) + 30, dtype=conditions.dtype)
            whole = subject.run(inputs, conditions)
            if not _usable(whole, conditions, worst):
                continue
            for length in PREFIXES:
                part = subject.run(inputs[:, :length], conditions)
                what = f"cutting the input from length {inputs.shape[1]} to {length} ({conditions})"
                # other shapes take other kernels, which round differently: ten times the margin
                for row in range(2):
                    worst.see(whole[row, :length], part[row], 10 * subject.rounding(conditions), what)
    causes = (
        "a statistic or a normalisation over the whole length, padding that is not masked, an FFT or "
        "interpolation whose size follows the length, positions counted from the end"
    )
    return worst.result("prefix", causes, {"prefixes": list(PREFIXES)})


def batch(subject: Subject) -> CheckResult:
    """One sample's output does not depend on its neighbours, on their order, or on there being any."""
    worst = _Worst()
    for noise in (0.0, NUDGE):
        for train in (False, True):
            plain = Conditions(noise=noise, train=train)
            conditions = plain if train else subject.precise(plain)
            _change_neighbours(subject, conditions, worst)
            # dropout draws by place, and another place rounds differently, which noise may make chaotic
            if not train and not noise:
                _reorder(subject, conditions, worst)
    causes = "batch norm, a mean or a sort over the batch axis, a view or reshape that mixes batch and length"
    return worst.result("batch", causes, {})


def documents(subject: Subject) -> CheckResult:
    """No document of a packed row sees another: each comes out as it does alone. For programs that take boundaries.

    Where the campaign hands out no boundaries, a program that does not keep them is told so, and not refused: layers
    in the manner of flash-linear-attention pick cu_seqlens up without being written for it.
    """
    if subject.settings.document_boundaries or not takes_cu_seqlens(subject.mixer_class):
        return _documents(subject)
    try:
        result = _documents(subject)
    except ProgramError as error:
        return CheckResult("documents", True, {"kept apart": f"no: {error}"})
    return (
        result if result.passed else CheckResult("documents", True, {"kept apart": "no", **result.measured})
    )


def _documents(subject: Subject) -> CheckResult:
    measured: dict[str, float | int | str | list] = {"lengths": list(DOCUMENTS)}
    if not takes_cu_seqlens(subject.mixer_class):
        message = (
            "forward does not name cu_seqlens, which data.document_boundaries needs: write "
            "forward(self, hidden_states, ..., cu_seqlens=None, **kwargs), and hand it to what mixes positions"
        )
        needed = subject.settings.document_boundaries
        return CheckResult("documents", not needed, {"cu_seqlens": "not taken"}, message if needed else "")
    worst = _Worst()
    ends = list(itertools.accumulate(DOCUMENTS, initial=0))
    boundaries = torch.tensor(ends, dtype=torch.int32)
    for plain in (Conditions(), Conditions(noise=NUDGE, layer_idx=subject.last_layer)):
        conditions = subject.precise(plain)
        inputs = subject.inputs(1, ends[-1], dtype=conditions.dtype)
        packed = subject.run(inputs, conditions, cu_seqlens=boundaries)
        if not _usable(packed, conditions, worst):
            continue
        for start, end in itertools.pairwise(ends):
            alone = subject.run(inputs[:, start:end], conditions)
            what = f"packing a document of length {end - start} behind others, with cu_seqlens ({conditions})"
            worst.see(alone[0], packed[0, start:end], 10 * subject.rounding(conditions), what)
    causes = "a convolution, a state, a mask or positions that do not begin anew with each document"
    return worst.result("documents", causes, measured)


def _intervene(
    subject: Subject, conditions: Conditions, length: int, positions: Sequence[int], worst: _Worst
) -> dict[int, set[int]]:
    """A run for each t, all rows changed at the same t; gives the positions that moved, for each t.

    Compared are runs of one shape with the same seed, row by row: no dependence on the batch hides a leak, no
    dropout looks like one, and equal rows go the same way through every kernel, so that a chaotic recurrence
    has no rounding to amplify.
    """
    inputs = subject.inputs(2, length, dtype=conditions.dtype)
    base = subject.run(inputs, conditions)
    if not _usable(base, conditions, worst):
        return {}
    moved: dict[int, set[int]] = {}
    change = subject.inputs(2, length, draw=1, dtype=conditions.dtype)
    change[1] *= LOUD
    rounding = subject.rounding(conditions)
    for t in positions:
        changed = subject.run(torch.cat((inputs[:, :t], change[:, t:]), dim=1), conditions)
        what = f"changing the input from position {t} on (length {length}, {conditions})"
        for before, after in zip(base[:, :t], changed[:, :t], strict=True):
            worst.see(before, after, rounding, what)
            moved.setdefault(t, set()).update(_moved(before, after, rounding))
    return moved


def _sweep(
    subject: Subject, conditions: Conditions, length: int, positions: Sequence[int], worst: _Worst
) -> list[int]:
    """Screen many t in one run, row 0 the base, then two rows a t. Gives each t that needs a closer look."""
    inputs = subject.inputs(1, length, draw=2, dtype=conditions.dtype)
    change = subject.inputs(1, length, draw=3, dtype=conditions.dtype)
    rows = [inputs]
    for t in positions:
        rows += [torch.cat((inputs[:, :t], size * change[:, t:]), dim=1) for size in (1.0, LOUD)]
    base, *changed = subject.run(torch.cat(rows), conditions)
    if not _usable(base, conditions, worst):
        return []
    worst.count += len(changed)
    rounding = subject.rounding(conditions)
    pairs = zip((t for t in positions for _ in range(2)), changed, strict=True)
    return sorted({t for t, row in pairs if _moved(base[:t], row[:t], rounding)})


def _moved(base: Tensor, changed: Tensor, rounding: float) -> list[int]:
    """The positions of (length, hidden_size) that moved by more than rounding explains."""
    still = (changed.double() - base.double()).abs().amax(-1) <= rounding * max(rms(base), 1e-30)
    return torch.nonzero(~still).flatten().tolist()


def _change_neighbours(subject: Subject, conditions: Conditions, worst: _Worst) -> None:
    inputs = subject.inputs(3, 65, dtype=conditions.dtype)
    base = subject.run(inputs, conditions)
    if not _usable(base, conditions, worst):
        return
    neighbours = subject.inputs(3, 65, draw=1, dtype=conditions.dtype) * LOUD
    neighbours[1] = inputs[1]
    changed = subject.run(neighbours, conditions)
    what = f"changing the other samples of the batch (length 65, {conditions})"
    worst.see(base[1], changed[1], subject.rounding(conditions), what)


def _reorder(subject: Subject, conditions: Conditions, worst: _Worst) -> None:
    inputs = subject.inputs(3, 65, dtype=conditions.dtype)
    base = subject.run(inputs, conditions)
    if not _usable(base, conditions, worst):
        return
    order = [2, 0, 1]
    reordered = subject.run(inputs[order], conditions)
    rounding = 10 * subject.rounding(conditions)
    for place, row in enumerate(order):
        what = f"reordering the samples of the batch (length 65, {conditions})"
        worst.see(base[row], reordered[place], rounding, what)
    alone = subject.run(inputs[:1], conditions)
    worst.see(base[0], alone[0], rounding, f"running a sample alone (length 65, {conditions})")


def _usable(base: Tensor, conditions: Conditions, worst: _Worst) -> bool:
    """Whether `base` can be compared with: noise on the parameters may make an honest program overflow."""
    if torch.isfinite(base).all():
        return True
    if not conditions.noise:
        raise ProgramError(
            f"the output is NaN or infinite (batch and length of the intervention, {conditions})"
        )
    worst.skipped.append(f"not finite: {conditions}")
    return False


def _likely_causes(leaks: dict[int, set[int]]) -> str:
    """What usually causes the pattern. `leaks`: for each t, the positions before t whose output moved."""
    if not leaks:
        return "batch norm or another statistic that is taken in train mode only, a branch on the length"
    for size in (8, 16, 32, 64, 128):
        inside = all(min(positions) >= t // size * size for t, positions in leaks.items())
        if inside and all(t % size for t in leaks) and len(leaks) > 2:
            return f"no causal mask inside chunks of {size} positions"
    reach = max(t - min(positions) for t, positions in leaks.items())
    if reach <= 8:
        return f"a shift or a convolution that looks {reach} ahead: pad on the left, and shift the other way"
    if max(map(max, leaks.values())) <= 8:
        return "a wrap-around: torch.roll, or an FFT that is not padded to twice the length"
    return (
        "attention without a causal mask, a mean, norm or softmax over the length axis, a backward scan or "
        "flip, an FFT that is not padded to twice the length"
    )
