"""An output must not know the length it came in, its neighbours, the device, or another layer's input."""

import itertools

import torch

from asiarch.models.check.causality import LOUD
from asiarch.models.check.movement import Worst
from asiarch.models.check.parameters import NUDGE
from asiarch.models.check.pretend import pretend_gpu
from asiarch.models.check.report import CheckResult, Measured
from asiarch.models.check.subject import Conditions, ProgramError, Subject
from asiarch.models.contract import takes_cu_seqlens
from asiarch.models.language_model import LanguageModel

PREFIXES = (1, 5, 33, 64, 65, 100)
DOCUMENTS = (1, 40, 64, 7, 130)  # lengths of documents packed into one row
OTHER_SHAPES = 10  # times the rounding: other shapes take other kernels, which round differently
MODEL_FFN_WIDTH = 8
LARGEST_BATCH = 64


def prefix(subject: Subject) -> CheckResult:
    """The output for a prefix does not depend on the length that it came in."""
    worst = Worst()
    for plain in (Conditions(), Conditions(noise=NUDGE, layer_idx=subject.last_layer)):
        for conditions in {plain, subject.precise(plain)}:
            inputs = subject.inputs(2, max(PREFIXES) + 30, dtype=conditions.dtype)
            whole = subject.run(inputs, conditions)
            if not worst.usable(whole, conditions):
                continue
            for length in PREFIXES:
                part = subject.run(inputs[:, :length], conditions)
                what = f"cutting the input from length {inputs.shape[1]} to {length} ({conditions})"
                for row in range(2):
                    rounding = OTHER_SHAPES * subject.rounding(conditions)
                    worst.see(whole[row, :length], part[row], rounding, what)
    causes = (
        "a statistic or a normalisation over the whole length, padding that is not masked, an FFT or "
        "interpolation whose size follows the length, positions counted from the end"
    )
    return worst.result("prefix", causes, {"prefixes": list(PREFIXES)})


def batch(subject: Subject) -> CheckResult:
    """One sample's output does not depend on its neighbours, on their order, or on there being any."""
    worst = Worst()
    for noise in (0.0, NUDGE):
        for train in (False, True):
            plain = Conditions(noise=noise, train=train)
            conditions = plain if train else subject.precise(plain)
            _change_neighbours(subject, conditions, worst)
            # dropout draws by place, and another place rounds differently, which noise may make chaotic
            if not train and not noise:
                _reorder(subject, conditions, worst)
    sizes = sorted({8, *(n + more for n in subject.numbers if 1 < n < LARGEST_BATCH for more in (0, 1))})
    for size in sizes:
        _join_a_batch(subject, subject.precise(Conditions()), size, worst)
    causes = "batch norm, a mean or a sort over the batch axis, a view or reshape that mixes batch and length"
    return worst.result("batch", causes, {"batches": [1, 3, *sizes]})


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
    measured: dict[str, Measured] = {"lengths": list(DOCUMENTS)}
    if not takes_cu_seqlens(subject.mixer_class):
        message = (
            "forward does not name cu_seqlens, which data.document_boundaries needs: write "
            "forward(self, hidden_states, ..., cu_seqlens=None, **kwargs), and hand it to what mixes positions"
        )
        needed = subject.settings.document_boundaries
        return CheckResult("documents", not needed, {"cu_seqlens": "not taken"}, message if needed else "")
    worst = Worst()
    ends = list(itertools.accumulate(DOCUMENTS, initial=0))
    boundaries = torch.tensor(ends, dtype=torch.int32)
    for plain in (Conditions(), Conditions(noise=NUDGE, layer_idx=subject.last_layer)):
        conditions = subject.precise(plain)
        inputs = subject.inputs(1, ends[-1], dtype=conditions.dtype)
        packed = subject.run(inputs, conditions, cu_seqlens=boundaries)
        if not worst.usable(packed, conditions):
            continue
        for start, end in itertools.pairwise(ends):
            alone = subject.run(inputs[:, start:end], conditions)
            what = f"packing a document of length {end - start} behind others, with cu_seqlens ({conditions})"
            worst.see(alone[0], packed[0, start:end], OTHER_SHAPES * subject.rounding(conditions), what)
    causes = "a convolution, a state, a mask or positions that do not begin anew with each document"
    return worst.result("documents", causes, measured)


def model(subject: Subject) -> CheckResult:
    """In a language model of all layers, changing the tokens from t on leaves every state before t as it was."""
    worst = Worst()
    length, t = 65, 33
    generator = torch.Generator().manual_seed(subject.settings.seed)
    tokens = torch.randint(subject.settings.vocab_size, (2, length), generator=generator)
    changed = tokens.clone()
    changed[:, t:] = torch.randint(subject.settings.vocab_size, (2, length - t), generator=generator)
    for train in (False, True):
        for noise in (0.0, NUDGE):
            conditions = subject.precise(Conditions(train=train, noise=noise))
            before, after = (_hidden(subject, conditions, given) for given in (tokens, changed))
            if worst.usable(before, conditions):
                for row in range(2):
                    what = f"changing the tokens of a language model from position {t} on ({conditions})"
                    worst.see(before[row, :t], after[row, :t], subject.rounding(conditions), what)
    causes = "a global or class attribute through which one layer tells another of its input"
    return worst.result("model", causes, {"layers": subject.settings.layers, "length": length})


def device(subject: Subject) -> CheckResult:
    """A program that is told that its tensors are on a GPU computes the same."""
    worst = Worst()
    for train in (False, True):
        conditions = subject.precise(Conditions(train=train))
        inputs = subject.inputs(2, 65, dtype=conditions.dtype)
        base = subject.run(inputs, conditions)
        try:
            with pretend_gpu(subject.file):
                on_gpu = subject.run(inputs, conditions)
        except ProgramError as error:
            worst.skip(f"cannot be told: {error}")
            continue
        if worst.usable(base, conditions):
            for row in range(2):
                what = f"telling the program that its tensors are on a GPU ({conditions})"
                worst.see(base[row], on_gpu[row], OTHER_SHAPES * subject.rounding(conditions), what)
    if not worst.count:
        return CheckResult("device", True, {"skipped": worst.skipped})
    return worst.result("device", "a path for one device that computes something else", {})


def _hidden(subject: Subject, conditions: Conditions, tokens: torch.Tensor) -> torch.Tensor:
    settings = subject.settings
    with subject.surroundings(conditions, 1, f"in a language model, {conditions}"):
        whole = LanguageModel(settings.model(), subject.mixer_class, MODEL_FFN_WIDTH, settings.seed)
        whole.to(conditions.dtype).train(conditions.train)
        subject.change_parameters(whole, conditions, settings.seed)
        return whole.hidden(tokens).detach()


def _change_neighbours(subject: Subject, conditions: Conditions, worst: Worst) -> None:
    inputs = subject.inputs(3, 65, dtype=conditions.dtype)
    base = subject.run(inputs, conditions)
    if not worst.usable(base, conditions):
        return
    neighbours = subject.inputs(3, 65, draw=1, dtype=conditions.dtype) * LOUD
    neighbours[1] = inputs[1]
    changed = subject.run(neighbours, conditions)
    what = f"changing the other samples of the batch (length 65, {conditions})"
    worst.see(base[1], changed[1], subject.rounding(conditions), what)


def _reorder(subject: Subject, conditions: Conditions, worst: Worst) -> None:
    inputs = subject.inputs(3, 65, dtype=conditions.dtype)
    base = subject.run(inputs, conditions)
    if not worst.usable(base, conditions):
        return
    order = [2, 0, 1]
    reordered = subject.run(inputs[order], conditions)
    rounding = OTHER_SHAPES * subject.rounding(conditions)
    for place, row in enumerate(order):
        what = f"reordering the samples of the batch (length 65, {conditions})"
        worst.see(base[row], reordered[place], rounding, what)
    alone = subject.run(inputs[:1], conditions)
    worst.see(base[0], alone[0], rounding, f"running a sample alone (length 65, {conditions})")


def _join_a_batch(subject: Subject, conditions: Conditions, size: int, worst: Worst) -> None:
    inputs = subject.inputs(size, 17, dtype=conditions.dtype)
    alone, together = subject.run(inputs[:1], conditions), subject.run(inputs, conditions)
    if worst.usable(alone, conditions):
        what = f"putting a sample into a batch of {size} (length 17, {conditions})"
        worst.see(alone[0], together[0], OTHER_SHAPES * subject.rounding(conditions), what)
