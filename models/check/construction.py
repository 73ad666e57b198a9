"""Probes of a program by itself: it constructs, runs, trains, has a sane scale and size."""

import inspect
from dataclasses import replace

import torch
from torch import Tensor

from asiarch.models.baselines import baseline_path
from asiarch.models.check.parameters import LARGE, NUDGE, rms
from asiarch.models.check.report import CheckResult, Measured, number
from asiarch.models.check.settings import CheckSettings
from asiarch.models.check.subject import Conditions, ProgramError, Subject
from asiarch.models.contract import load_mixer_class, run_mixer
from asiarch.models.language_model import match_ffn_width, reference_parameters

RUN_LENGTHS = (1, 2, 17, 63, 64, 65, 130)
SCALE_RANGE = (1e-4, 1e3)


def construct(subject: Subject) -> CheckResult:
    """The class takes the contract's arguments, for every layer; forward takes its keywords."""
    parameters = 0
    for layer_idx in range(subject.settings.layers):
        mixer = subject.mixer(Conditions(layer_idx=layer_idx))
        parameters += sum(p.numel() for p in mixer.parameters())
        try:
            inspect.signature(mixer.forward).bind(
                None, attention_mask=None, past_key_values=None, use_cache=False
            )
        except TypeError as error:
            message = (
                f"{type(mixer).__name__}.forward does not take the contract's arguments: {error}; write "
                "forward(self, hidden_states, attention_mask=None, past_key_values=None, "
                "use_cache=False, **kwargs)"
            )
            return CheckResult("construct", False, {}, message)
    return CheckResult(
        "construct", True, {"class": subject.mixer_class.__name__, "mixer_parameters": parameters}
    )


def forward_backward(subject: Subject) -> CheckResult:
    """The output has the input's shape and is finite, and so are all gradients, at awkward lengths too."""
    name = "forward_backward"
    conditions = Conditions(train=True)
    if subject.settings.precision == "bf16" and subject.bfloat16_note != "supported":
        return CheckResult(
            name, False, {"bfloat16": subject.bfloat16_note}, f"bfloat16 {subject.bfloat16_note}"
        )
    for length in RUN_LENGTHS:
        output, gradients = _gradients(subject, conditions, length)
        bad = [name for name, gradient in gradients.items() if gradient is not None and not _finite(gradient)]
        if not _finite(output) or bad:
            what = f"the gradient of {_some(bad)}" if bad else "the output"
            message = (
                f"{what} is NaN or infinite for input of unit rms (batch 2, length {length}, {conditions}). "
                "Usual causes: exp of an unbounded sum, a division by a sum that may be 0, log or sqrt at 0"
            )
            return CheckResult(name, False, {"length": length}, message)
    return CheckResult(name, True, {"lengths": list(RUN_LENGTHS)})


def gradients(subject: Subject) -> CheckResult:
    """A gradient that is not exactly zero reaches every parameter and the input, for some input."""
    missing = _never_reached(subject, Conditions(train=True))
    at_init = len(missing)
    # a gate initialised at zero hides what is behind it at the first step only; a clamp, what it does not yet bind
    for others in (Conditions(noise=NUDGE), Conditions(redraw=LARGE), Conditions(redraw=-LARGE)):
        if missing:
            missing &= _never_reached(subject, replace(others, train=True))
    measured: dict[str, Measured] = {"zero_at_init": at_init, "never_reached": sorted(missing)}
    if missing:
        message = (
            f"no gradient reaches {_some(sorted(missing))}, for 3 inputs, "
            "as initialised, with noise added to the parameters or with parameters drawn anew. "
            "Usual causes: forward does not use it, detach, rounding or argmax on its way"
        )
        return CheckResult("gradients", False, measured, message)
    return CheckResult("gradients", True, measured)


def scale(subject: Subject) -> CheckResult:
    """The output's rms for input of unit rms is in a sane range. Exactly zero may be a gate: look again."""
    low, high = SCALE_RANGE
    at_init = rms(subject.run(subject.inputs(2, 130), Conditions()))
    measured = {"rms": number(at_init)}
    judged, note = at_init, ""
    if at_init == 0:
        judged = rms(subject.run(subject.inputs(2, 130), Conditions(noise=NUDGE)))
        measured["rms_with_noise"] = number(judged)
        note = " with noise added to the parameters (exactly 0 without)"
    if not low <= judged <= high:
        message = (
            f"the output's rms is {judged:.1e}{note} for input of unit rms (batch 2, length 130); "
            f"it must be in [{low:g}, {high:g}]. Usual causes: a sum over time not normalised, "
            "a gate almost closed at init"
        )
        return CheckResult("scale", False, measured, message)
    return CheckResult("scale", True, measured)


def size(subject: Subject) -> CheckResult:
    """The language model around the mixer can be given the reference's parameter count."""
    settings = subject.settings
    target = target_parameters(settings)
    try:
        with subject.guarded("counting the parameters"):
            match = match_ffn_width(settings.model(), subject.mixer_class, target)
    except ProgramError as error:
        return CheckResult("size", False, {"target": target, "reference": settings.reference}, str(error))
    measured = {
        "parameters": match.parameters,
        "target": target,
        "relative_error": number(match.relative_error),
        "ffn_width": match.width,
        "reference": settings.reference,
    }
    return CheckResult("size", True, measured)


def target_parameters(settings: CheckSettings) -> int:
    """The parameter count of the reference's model. Raises UserError for a name or sizes unknown."""
    return reference_parameters(settings.model(), load_mixer_class(baseline_path(settings.reference)))


def _gradients(
    subject: Subject, conditions: Conditions, length: int, draw: int = 0
) -> tuple[Tensor, dict[str, Tensor | None]]:
    """Output, and the gradient of a random weighting of it for every trained parameter and the input."""
    mixer = subject.mixer(conditions)
    names = {name for name, _ in mixer.named_parameters()}
    inputs = subject.inputs(2, length, draw).requires_grad_()
    where = f"forward and backward, batch 2, length {length}, {conditions}"
    with subject.surroundings(conditions, 1, where):
        output = run_mixer(mixer, inputs * 1)
        if names != {name for name, _ in mixer.named_parameters()}:
            raise ProgramError(f"makes or removes parameters in forward ({where}); make them in __init__")
        if not output.requires_grad:
            raise ProgramError(
                f"the output carries no gradient ({where}); do not detach it or run under no_grad"
            )
        (output * torch.randn_like(output)).sum().backward()
    parameters = {name: p.grad for name, p in mixer.named_parameters() if p.requires_grad}
    return output.detach(), {**parameters, "the input": inputs.grad}


def _never_reached(subject: Subject, conditions: Conditions) -> set[str]:
    missing: set[str] | None = None
    for draw in range(3):
        _, found = _gradients(
            subject, replace(conditions, layer_idx=draw % subject.settings.layers), 65, draw
        )
        # NaN is no evidence: zero times an overflow gives it too
        zero = {name for name, gradient in found.items() if gradient is None or not _says_something(gradient)}
        missing = zero if missing is None else missing & zero
    return missing or set()


def _says_something(gradient: Tensor) -> bool:
    return bool((gradient.isfinite() & (gradient != 0)).any())


def _finite(values: Tensor) -> bool:
    return bool(torch.isfinite(values).all())


def _some(names: list[str]) -> str:
    """The first names of a list, and how many more there are."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
