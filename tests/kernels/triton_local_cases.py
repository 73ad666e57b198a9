"""The Triton kernels of convolution, norms and cross-entropy, as `triton_cases.py` has those of the recurrence.

Here the public functions are called: they take the kernels on a GPU, and elsewhere under Triton's interpreter.
"""

from collections.abc import Callable, Sequence
from importlib import import_module

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from asiarch.hpc.doctor import operators as doctor
from asiarch.kernels import fused_linear_cross_entropy, gated_rms_norm, rms_norm, short_convolution
from asiarch.kernels.cross_entropy.naive import naive_linear_cross_entropy
from asiarch.kernels.dispatch import takes_triton
from asiarch.kernels.documents import document_by_document
from asiarch.kernels.normalization.naive import naive_gated_rms_norm, naive_rms_norm
from asiarch.kernels.normalization.triton_op import rms_norm_op
from asiarch.kernels.short_convolution.naive import naive_short_convolution
from asiarch.kernels.short_convolution.triton_op import short_convolution_op

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Function = Callable[..., Sequence[Tensor]]
# few: an example takes up to a second in the interpreter
few_examples = settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def normal(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def on_device(function: Function) -> Function:
    """`function` where the kernels run, its tensors taken there and back."""

    def run(*tensors: Tensor) -> Sequence[Tensor]:
        there = [x.to(DEVICE) for x in tensors]
        assert takes_triton(*there)
        return [x.cpu() for x in function(*there)]

    return run


def convolution(silu: bool, cu_seqlens: Tensor | None = None) -> tuple[Function, Function]:
    """The operator and its definition, of x, weight, state and perhaps bias; both give y and the last state."""
    activation = "silu" if silu else None
    borders = None if cu_seqlens is None else cu_seqlens.to(DEVICE)

    def fast(x: Tensor, weight: Tensor, state: Tensor, bias: Tensor | None = None) -> Sequence[Tensor]:
        y, last = short_convolution(
            x, weight, bias, activation=activation, initial_state=state,  # type: ignore[arg-type]
            output_final_state=True, cu_seqlens=borders,
        )  # fmt: skip
        assert last is not None
        return y, last

    def slow(x: Tensor, weight: Tensor, state: Tensor, bias: Tensor | None = None) -> Sequence[Tensor]:
        def whole(state: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
            return naive_short_convolution(x, weight, bias, state)

        if cu_seqlens is None:
            y, last = whole(state, x)
        else:
            y, last = document_by_document(whole, cu_seqlens, state, x)
        return functional.silu(y) if silu else y, last

    return on_device(fast), slow


@pytest.mark.parametrize(
    ("length", "channels", "width", "silu", "bias", "dtype"),
    [
        pytest.param(67, 5, 4, True, True, torch.float32, id="two-chunks"),
        pytest.param(3, 70, 6, False, False, torch.float32, id="state-longer-than-input"),
        pytest.param(9, 8, 4, True, True, torch.bfloat16, id="bfloat16"),
    ],
)
def test_convolution(
    length: int,
    channels: int,
    width: int,
    silu: bool,
    bias: bool,
    dtype: torch.dtype,
    same_function: Callable[..., None],
) -> None:
    tensors = [normal(2, length, channels), normal(channels, width), normal(2, width - 1, channels)]
    tensors += [normal(channels)] if bias else []
    same_function(*convolution(silu), tensors, dtype)


@few_examples
@given(
    borders=st.lists(st.integers(1, 90), min_size=1, max_size=4, unique=True).map(sorted),
    channels=st.integers(1, 70),
    width=st.integers(2, 6),
    silu=st.booleans(),
    packed=st.booleans(),
)
def test_convolution_of_any_shape(
    borders: list[int],
    channels: int,
    width: int,
    silu: bool,
    packed: bool,
    same_function: Callable[..., None],
) -> None:
    rows = len(borders) if packed else 2
    x = normal(1 if packed else rows, borders[-1], channels)
    cu_seqlens = torch.tensor([0, *borders]) if packed else None
    tensors = [x, normal(channels, width), normal(rows, width - 1, channels), normal(channels)]
    same_function(*convolution(silu, cu_seqlens), tensors, torch.float32)


@pytest.mark.parametrize("borders", [[0, 1, 2, 67, 70], [0, 1]], ids=str)
def test_convolution_of_documents(borders: list[int], same_function: Callable[..., None]) -> None:
    tensors = [normal(1, borders[-1], 5), normal(5, 4), normal(len(borders) - 1, 3, 5), normal(5)]
    same_function(*convolution(True, torch.tensor(borders)), tensors, torch.float32)


@pytest.mark.parametrize("width", [1, 4])
def test_convolution_without_a_state(width: int, same_function: Callable[..., None]) -> None:
    same_function(
        on_device(lambda x, weight: short_convolution(x, weight)[:1]),
        lambda x, weight: naive_short_convolution(x, weight, None, None)[:1],
        [normal(2, 5, 3), normal(3, width)],
        torch.float32,
    )


def test_an_empty_document_keeps_its_state() -> None:
    x, weight, state = (t.float().to(DEVICE) for t in (normal(1, 5, 3), normal(3, 4), normal(3, 3, 3)))
    state.requires_grad_()
    borders = torch.tensor([0, 2, 2, 5], device=DEVICE)
    _, last = short_convolution(x, weight, initial_state=state, output_final_state=True, cu_seqlens=borders)
    assert last is not None
    assert last[1].equal(state[1])
    (slope,) = torch.autograd.grad(last[1].sum(), state)
    assert slope.sum((1, 2)).tolist() == [0, 9, 0]


def norm(gated: bool) -> tuple[Function, Function]:
    """The operator and its definition, of x, weight and perhaps the gate."""
    if gated:
        return (
            on_device(lambda x, weight, gate: (gated_rms_norm(x, gate, weight),)),
            lambda x, weight, gate: (naive_gated_rms_norm(x, gate, weight, 1e-5),),
        )
    return (
        on_device(lambda x, weight: (rms_norm(x, weight),)),
        lambda x, weight: (naive_rms_norm(x, weight, 1e-5),),
    )


@pytest.mark.parametrize(
    ("shape", "scale", "dtype"),
    [
        pytest.param((2, 35, 5), 1.0, torch.float32, id="narrow"),
        pytest.param((3, 300), 1.0, torch.float32, id="two-blocks-of-channels"),
        pytest.param((1, 64), 1e6, torch.float32, id="large-norm"),
        pytest.param((4, 1), 1e-4, torch.float32, id="one-small-channel"),
        pytest.param((9, 24), 1.0, torch.bfloat16, id="bfloat16"),
    ],
)
@pytest.mark.parametrize("gated", [False, True], ids=["plain", "gated"])
def test_norms(
    shape: tuple[int, ...],
    scale: float,
    dtype: torch.dtype,
    gated: bool,
    same_function: Callable[..., None],
) -> None:
    x, weight, gate = scale * normal(*shape), normal(shape[-1]), 3 * normal(*shape).flip(0)
    # gradients of x shrink with its size
    least = min(1e-3, 1e-3 / scale)
    same_function(*norm(gated), [x, weight, gate][: 2 + gated], dtype, least)


@few_examples
@given(rows=st.integers(1, 40), width=st.integers(2, 300), gated=st.booleans())
def test_norms_of_any_shape(rows: int, width: int, gated: bool, same_function: Callable[..., None]) -> None:
    x, weight, gate = normal(rows, width), normal(width), 3 * normal(rows, width).flip(0)
    same_function(*norm(gated), [x, weight, gate][: 2 + gated], torch.float32)


@pytest.mark.parametrize(
    ("vocabulary", "scale", "ignored", "dtype"),
    [
        pytest.param(37, 1.0, 1, torch.float32, id="one-chunk-of-three-ignored"),
        pytest.param(5000, 1.0, 0, torch.float32, id="two-blocks-of-logits"),
        pytest.param(37, 300.0, 1, torch.float32, id="large-logits"),
        pytest.param(37, 1.0, 7, torch.float32, id="all-ignored"),
        pytest.param(37, 1.0, 1, torch.bfloat16, id="bfloat16"),
        pytest.param(1, 1.0, 0, torch.float32, id="one-word"),
    ],
)
def test_cross_entropy(
    vocabulary: int, scale: float, ignored: int, dtype: torch.dtype, same_function: Callable[..., None]
) -> None:
    targets = torch.arange(7) * 7 % vocabulary
    targets[:ignored] = -100
    there = targets.to(DEVICE)
    same_function(
        on_device(
            lambda h, w: (
                fused_linear_cross_entropy(h, w, there, reduction="none", chunk_logits=3 * vocabulary),
            )
        ),
        lambda h, w: (naive_linear_cross_entropy(h, w, targets, -100),),
        [scale * normal(7, 8), normal(vocabulary, 8)],
        dtype,
    )


def test_a_target_outside_of_the_vocabulary_is_no_loss() -> None:
    hidden, weight = (x.float().to(DEVICE).requires_grad_() for x in (normal(3, 8), normal(37, 8)))
    losses = fused_linear_cross_entropy(
        hidden, weight, torch.tensor([1, 37, -1], device=DEVICE), reduction="none"
    )
    assert losses.isnan().tolist() == [False, True, True]
    (slope,) = torch.autograd.grad(losses.sum(), hidden)
    assert slope.isnan().all(1).tolist() == [False, True, True]


def test_compile_into_one_graph() -> None:
    """Through the shapes that are registered for a tracer; the kernels themselves don't run here."""
    leaves = [x.float().requires_grad_() for x in (normal(1, 9, 5), normal(5, 4), normal(5), normal(2, 3, 5))]
    targets, borders = torch.arange(9).view(1, 9) % 5, torch.tensor([0, 2, 9])

    def run(x: Tensor, weight: Tensor, bias: Tensor, state: Tensor) -> Tensor:
        y, last = short_convolution_op(x, weight, bias, state, borders_there, True)
        y = rms_norm_op(rms_norm_op(y, bias, None, 1e-5), bias, x, 1e-5)
        loss = fused_linear_cross_entropy(y, weight.new_ones(5, 5) * bias, targets_there)
        return loss + last.sum()

    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=False) as mode:
        fakes = [mode.from_tensor(x) for x in leaves]
        targets_there, borders_there = mode.from_tensor(targets), mode.from_tensor(borders)
        compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
        slopes = torch.autograd.grad(compiled(*fakes), fakes)
    assert [x.shape for x in slopes] == [x.shape for x in leaves]


@pytest.mark.parametrize(
    ("name", "module", "function"),
    [
        ("gated_rms_norm", "normalization.triton_op", "rms_norm_op"),
        ("short_convolution, all it can have", "short_convolution.triton_op", "short_convolution_op"),
    ],
)
def test_the_doctor_looks_at_the_kernels(
    name: str, module: str, function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, device = doctor._cases()[name], torch.device(DEVICE)
    assert doctor.operator_error(*case, device) < doctor.BOUNDS[torch.float32]
    home = import_module(f"asiarch.kernels.{module}")
    sound = getattr(home, function)

    def faulty(*arguments: object) -> object:
        output = sound(*arguments)
        return 1.01 * output if isinstance(output, Tensor) else (1.01 * output[0], output[1])

    monkeypatch.setattr(home, function, faulty)
    assert doctor.operator_error(*case, device) > doctor.BOUNDS[torch.float32]
