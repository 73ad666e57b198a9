"""Is the past free of the future: by intervention on the input, and by the gradient, at many places.

A leak is looked for with the parameters as initialised, with noise, and drawn anew, since a gate that starts
closed hides what is behind it until training opens it; in train and eval mode; in every dtype. Runs in float64,
where rounding is no excuse, see leaks of 1e-8 of the output, runs in float32 those of 1e-4. NaN and infinity are
not used to probe: an honest mask that multiplies by zero spreads them, and no embedding is NaN.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from asiarch.models.check.movement import Worst, moved
from asiarch.models.check.parameters import LARGE, NUDGE, SHAKE, rms
from asiarch.models.check.report import CheckResult
from asiarch.models.check.subject import Conditions, ProgramError, Subject
from asiarch.models.contract import run_mixer

# Lengths that no chunk size divides, and that some do; positions inside chunks of 16 to 256, and borders.
PAIR_RUNS = {2: (1,), 7: (3,), 63: (20, 62), 64: (32,), 65: (40, 64), 130: (100,)}
SWEEPS = {
    130: (*(1, 2, 3, 7, 8, 15, 16, 17, 24, 31, 32, 33, 40, 47, 48, 63), *(64, 65, 66, 81, 96, 100, 112, 127, 128, 129)),
    300: (100, 150, 190, 256, 257, 299),
}  # fmt: skip
FEW = (1, 16, 33, 40, 63, 81, 100, 129)  # of SWEEPS[130], for parameters that are drawn anew
MANY_CHANNELS = 256  # a wider model is swept at FEW positions too
LOUD = 8.0  # a change of this many times the input's rms shows leaks through maxima and sorting
NUMBERS_TRIED = 6
LONGEST_NUMBER = 1024
GRADIENT_CUTS = (1, 16, 33, 64, 81, 100, 129)


def causal(subject: Subject) -> CheckResult:
    """Changing the input from t on leaves every output before t as it was; no gradient comes from there."""
    worst = Worst()
    for conditions in (Conditions(), Conditions(train=True, layer_idx=subject.last_layer)):
        for length, positions in PAIR_RUNS.items():
            intervene(subject, conditions, length, positions, worst)
    intervene(subject, Conditions(), 65, (33,), worst, batch=1)
    leaks = _sweeps(subject, worst)
    long = _lengths(subject)
    # one leak is enough: what takes longest is left out once there is one
    if not worst.refuses:
        for conditions in _modes(subject):
            _intervene_where_it_runs(subject, conditions, worst)
        for length in long:
            for train in (False, True):
                intervene(subject, Conditions(train=train), length, (length // 2 + 1,), worst)
    if not worst.refuses:
        for conditions in _gradient_conditions(subject):
            _gradients(subject, conditions, worst)
    lengths = sorted({*PAIR_RUNS, *SWEEPS, *long})
    notes = {"float64": subject.float64_note, "bfloat16": subject.bfloat16_note}
    return worst.result("causal", _likely_causes(leaks), {"lengths": lengths, **notes})


def _intervene_where_it_runs(subject: Subject, conditions: Conditions, worst: Worst) -> None:
    loud = subject.rounding(conditions) < 1e-3
    try:
        intervene(subject, conditions, 65, (40,), worst, loud=loud)
    except ProgramError as error:
        if not conditions.autocast:
            raise
        worst.skip(f"does not run under autocast on a CPU: {error}")


def _modes(subject: Subject) -> Iterator[Conditions]:
    """The surroundings in which a program may take another path."""
    last = subject.last_layer
    yield Conditions(noise=NUDGE, train=True)
    yield Conditions(gradients=True, layer_idx=last)
    yield Conditions(train=True, gradients=False)
    for largest in (False, True):
        yield Conditions(train=True, chance=largest)
    yield Conditions(train=True, autocast=True)
    if subject.bfloat16_note == "supported":
        yield Conditions(dtype=torch.bfloat16)
        yield Conditions(dtype=torch.bfloat16, train=True, layer_idx=last)


def _lengths(subject: Subject) -> list[int]:
    """The length trained at, and those at which the program's own numbers may make it behave otherwise."""
    own = {n + more for n in subject.numbers if 2 < n <= LONGEST_NUMBER for more in (0, 1)}
    own -= {*PAIR_RUNS, *SWEEPS}
    return sorted({subject.settings.length, *sorted(own, reverse=True)[:NUMBERS_TRIED]})


def _sweeps(subject: Subject, worst: Worst) -> dict[int, set[int]]:
    """Many positions, in the best precision, for each kind of parameters. Gives what moved, for each t."""
    regimes = [Conditions(), Conditions(noise=NUDGE, layer_idx=subject.last_layer), Conditions(noise=SHAKE)]
    drawn = [Conditions(redraw=size, layer_idx=subject.last_layer) for size in (1.0, -1.0, LARGE, -LARGE)]
    for plain in (*regimes, *drawn):
        conditions = subject.precise(plain)
        for length, positions in SWEEPS.items():
            if plain.redraw and length != 130:
                continue
            few = plain.redraw or subject.settings.hidden_size > MANY_CHANNELS
            suspects = _sweep(subject, conditions, length, FEW if few and length == 130 else positions, worst)
            found = intervene(subject, conditions, length, suspects, worst)
            if suspects and not any(found.values()):
                # so many rows may be what makes it leak; a chaotic program's rounding would not come back here
                intervene(subject, conditions, length, suspects[:2], worst, batch=4 * len(positions))
            leaks = {t: places for t, places in found.items() if places}
            if leaks:
                return leaks
        if worst.refuses:
            break
    return {}


def intervene(
    subject: Subject,
    conditions: Conditions,
    length: int,
    positions: Sequence[int],
    worst: Worst,
    *,
    batch: int = 2,
    loud: bool = True,
) -> dict[int, set[int]]:
    """A run for each t, all rows changed at the same t; gives the positions that moved, for each t.

    Compared are runs of one shape with the same seed, row by row: no dependence on the batch hides a leak, no
    dropout looks like one, and equal rows go the same way through every kernel, so that a chaotic recurrence
    has no rounding to amplify. The second row's change is a loud one.
    """
    if not positions:
        return {}
    inputs = subject.inputs(batch, length, dtype=conditions.dtype)
    base = subject.run(inputs, conditions)
    if not worst.usable(base, conditions):
        return {}
    found: dict[int, set[int]] = {}
    change = subject.inputs(batch, length, draw=1, dtype=conditions.dtype)
    if loud:
        change[1:] *= LOUD
    rounding = subject.rounding(conditions)
    for t in positions:
        changed = subject.run(torch.cat((inputs[:, :t], change[:, t:]), dim=1), conditions)
        what = f"changing the input from position {t} on (batch {batch}, length {length}, {conditions})"
        for before, after in zip(base[:, :t], changed[:, :t], strict=True):
            worst.see(before, after, rounding, what)
            found.setdefault(t, set()).update(moved(before, after, rounding))
    return found


def _sweep(
    subject: Subject, conditions: Conditions, length: int, positions: Sequence[int], worst: Worst
) -> list[int]:
    """Screen many t in one run, row 0 the base, then a row for each change. Gives each t to look at closely."""
    inputs = subject.inputs(1, length, draw=2, dtype=conditions.dtype)
    rows, at = [inputs], []
    for number, t in enumerate(positions):
        for change in _changes(subject, inputs, t, number, conditions):
            rows.append(torch.cat((inputs[:, :t], change), dim=1))
            at.append(t)
    base, *changed = subject.run(torch.cat(rows), conditions)
    if not worst.usable(base[None], conditions):
        return []
    worst.count += len(changed)
    rounding = subject.rounding(conditions)
    return sorted({t for t, row in zip(at, changed, strict=True) if moved(base[:t], row[:t], rounding)})


def _changes(
    subject: Subject, inputs: Tensor, t: int, number: int, conditions: Conditions
) -> Iterator[Tensor]:
    """Other futures from t on: other values, loud ones, and in turn zeros or tokens seen before."""
    length = inputs.shape[1]
    other = subject.inputs(1, length, draw=3, dtype=conditions.dtype)[:, t:]
    yield other
    yield LOUD * other
    if number % 2:
        yield torch.zeros_like(other)
    else:
        yield inputs[:, torch.arange(length - t) % t]


def _gradient_conditions(subject: Subject) -> Iterator[Conditions]:
    yield Conditions(train=True, layer_idx=subject.last_layer)
    yield subject.precise(Conditions(train=True))
    yield subject.precise(Conditions(noise=NUDGE, train=True, layer_idx=subject.last_layer))
    yield subject.precise(Conditions(redraw=LARGE, train=True))


def _gradients(subject: Subject, conditions: Conditions, worst: Worst) -> None:
    """The gradient of a random weighting of the outputs before t must be zero for the inputs from t on."""
    length = 130
    mixer = subject.mixer(conditions)
    leaf = subject.inputs(len(GRADIENT_CUTS), length, draw=4, dtype=conditions.dtype).requires_grad_()
    where = f"forward and backward, batch {len(leaf)}, length {length}, {conditions}"
    with subject.surroundings(conditions, 1, where):
        output = run_mixer(mixer, leaf * 1)
        if not output.requires_grad:
            raise ProgramError(f"the output carries no gradient ({where}); do not detach it")
        weights = subject.inputs(len(leaf), length, draw=5, dtype=conditions.dtype)
        for row, t in enumerate(GRADIENT_CUTS):
            weights[row, t:] = 0
        (gradient,) = torch.autograd.grad(output, leaf, weights, allow_unused=True)
    if gradient is None or not torch.isfinite(gradient).all():
        worst.skip(f"no finite gradient: {conditions}")
        return
    for row, t in enumerate(GRADIENT_CUTS):
        worst.count += 1
        ahead = gradient[row, t:].abs().amax(-1)
        position = int(ahead.argmax())
        relative = ahead[position].item() / max(rms(gradient[row, :t]), 1e-30)
        what = (
            f"the outputs before position {t} depend on later inputs by their gradient ({conditions}), which"
        )
        worst.weigh(
            relative, t + position, subject.rounding(conditions), what, "gradient, which should be zero,"
        )


def _likely_causes(leaks: dict[int, set[int]]) -> str:
    """What usually causes the pattern. `leaks`: for each t, the positions before t whose output moved."""
    if not leaks:
        return (
            "a path that is taken in one mode, dtype, length or batch size alone, batch norm or another "
            "statistic over time, a straight-through estimator whose gradient comes from the future"
        )
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
