"""The same seed gives the same output, and no call changes the next one's."""

import operator
import sys
import types
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from asiarch.models.check.movement import relative_difference
from asiarch.models.check.report import CheckResult, number
from asiarch.models.check.subject import Conditions, ProgramError, Subject
from asiarch.models.contract import run_mixer

LENGTH = 65
SAME = 1e-6  # relative movement between runs that should be equal bit for bit

CAUSES = {
    "same_seed": (
        "a second mixer made and run with the same seed",
        "a generator of its own, or a value kept outside the module",
    ),
    "eval_seed": (
        "another seed of the generator in eval mode",
        "random numbers without a check of self.training",
    ),
    "gradient_mode": (
        "recording gradients, or not, in one mode",
        "a branch on torch.is_grad_enabled() or on requires_grad",
    ),
    "between_calls": (
        "calls on other inputs in between (train mode with backward passes, and eval mode)",
        "a buffer, attribute or global updated in forward (as a schedule over the calls, or batch norm's running "
        "statistics), a hook",
    ),
}


def deterministic(subject: Subject) -> CheckResult:
    """The same seed gives the same output, in eval mode any seed; no call changes the next one's output."""
    inputs = subject.inputs(2, LENGTH)
    with subject.guarded("making a mixer twice"):
        first, second = (subject.mixer(Conditions()).state_dict() for _ in range(2))
        made = max((relative_difference(first[key], second[key]) for key in first), default=0.0)
    worst = dict.fromkeys(CAUSES, 0.0) | {"same_seed": made}
    for train in (False, True):
        conditions = Conditions(train=train)
        base = subject.run(inputs, conditions)
        other_mode = Conditions(train=train, gradients=not train)
        movements = {
            "same_seed": subject.run(inputs, conditions),
            "gradient_mode": subject.run(inputs, other_mode),
            "between_calls": _after_other_calls(subject, inputs, conditions),
        }
        if not train:
            movements["eval_seed"] = subject.run(inputs, conditions, seed=2)
        for what, output in movements.items():
            worst[what] = max(worst[what], relative_difference(base, output))
    measured = {what: number(value) for what, value in worst.items()}
    for what, (told, cause) in CAUSES.items():
        if worst[what] > SAME:
            message = f"{told} moved the output by {worst[what]:.1e} of its rms. Usual cause: {cause}"
            return CheckResult("deterministic", False, measured, message)
    restless = _restless_state(subject, inputs)
    if restless:
        message = (
            f"{restless} changes at each call, also when the same input comes again. Usual cause: a count of "
            "the calls, or a running statistic over them; a mixer must not know how often it was called: leave a "
            "schedule out, at the value that it ends with"
        )
        return CheckResult("deterministic", False, measured | {"changes": restless}, message)
    return CheckResult("deterministic", True, measured)


def _after_other_calls(subject: Subject, inputs: Tensor, conditions: Conditions) -> Tensor:
    """The output of a mixer that has seen other inputs, in both modes, and their backward passes."""
    evaluate, train = Conditions(), Conditions(train=True)
    mixer = subject.mixer(conditions)
    subject.run(inputs, conditions, mixer)
    for other in (subject.inputs(2, LENGTH, draw=1) * 4, subject.inputs(3, 40, draw=2)):
        with subject.surroundings(train, 5, "forward and backward between two calls"):
            output = run_mixer(mixer.train(), other.clone().requires_grad_() * 1)
            if not output.requires_grad:
                raise ProgramError("the output carries no gradient; do not detach it")
            output.square().sum().backward()  # the gradients stay: a program may read them too
        subject.run(other, evaluate, mixer.eval(), seed=5)
    return subject.run(inputs, conditions, mixer.train(conditions.train))


def _restless_state(subject: Subject, inputs: Tensor) -> str:
    """The name of what differs after the second and after the third call on one input; empty for nothing."""
    for train in (False, True):
        conditions = Conditions(train=train)
        mixer = subject.mixer(conditions)
        seen: list[dict[str, Any]] = []
        for _ in range(3):
            subject.run(inputs, conditions, mixer)
            seen.append(_state(mixer))
        for name, value in seen[-1].items():
            before = seen[-2].get(name)
            if isinstance(value, Tensor) and isinstance(before, Tensor):
                if value.shape != before.shape or relative_difference(before, value) > 0:
                    return name
            elif isinstance(value, int | float | str | tuple) and value != before:
                return name
    return ""


def _state(mixer: nn.Module) -> dict[str, Any]:
    """Numbers, copies of tensors and sizes of containers that the module, its class and its file hold."""
    found: dict[str, Any] = {}
    for path, module in mixer.named_modules():
        held = {**vars(module), **module._buffers}
        _collect(found, f"{path}." if path else "self.", held)
    kind = type(mixer)
    _collect(found, f"{kind.__name__}.", vars(kind))
    _collect(found, "global ", vars(sys.modules[kind.__module__]))
    return found


def _collect(found: dict[str, Any], prefix: str, held: Any, depth: int = 2) -> None:
    for name, value in list(held.items()):
        if isinstance(value, Tensor):
            found[f"{prefix}{name}"] = value.detach().clone()
        elif isinstance(value, bool | int | float | str):
            found[f"{prefix}{name}"] = value
        elif isinstance(value, Iterator):
            # what is left of an iterator, without taking from it
            found[f"rest of {prefix}{name}"] = f"{value!r} {operator.length_hint(value, -1)}"
        elif isinstance(value, types.FunctionType) and depth and value.__closure__:
            cells = [_content(cell) for cell in value.__closure__]
            held_by = dict(zip(value.__code__.co_freevars, cells, strict=True))
            _collect(found, f"{prefix}{name}.", held_by, depth - 1)
        elif isinstance(value, list | tuple | set | dict) and not str(name).startswith("_"):
            found[f"len({prefix}{name})"] = len(value)
            if depth and not isinstance(value, set):
                pairs = value if isinstance(value, dict) else dict(enumerate(value))
                _collect(found, f"{prefix}{name}.", pairs, depth - 1)


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not bound yet
        return None
