"""The Triton kernels, on a GPU where there is one and in Triton's interpreter elsewhere, against the definitions.

`test_triton.py` runs this file in a process of its own: the interpreter has to be chosen before triton is imported.
"""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from asiarch.kernels.delta_rule.naive import naive_delta_rule
from asiarch.kernels.documents import document_by_document
from asiarch.kernels.gated_delta_rule.naive import naive_gated_delta_rule
from asiarch.kernels.linear_attention.naive import naive_linear_attention
from asiarch.kernels.recurrence.triton_op import recurrence_op

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SCALE, HEADS, CHUNK = 0.3, 2, 16
Case = tuple[bool, str, int, int, int]  # delta, decays, length, K, V


def inputs(case: Case, states: int = 1) -> list[Tensor]:
    """initial state, q, k (of length 1), v, beta in [0, 2] if it replaces, the log decay if there is one."""
    delta, decays, length, key_dim, value_dim = case
    generator = torch.Generator().manual_seed(length)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    keys = functional.normalize(normal(1, length, HEADS, key_dim), dim=-1)
    tensors = [normal(states, HEADS, key_dim, value_dim), normal(*keys.shape), keys]
    tensors.append(normal(1, length, HEADS, value_dim))
    if delta:
        tensors.append(1 + normal(1, length, HEADS).tanh())
    if decays != "none":
        tensors.append(-normal(*(keys.shape if decays == "channel" else keys.shape[:3])).abs())
    return tensors


def kernels(case: Case, cu_seqlens: Tensor | None = None) -> Callable[..., Sequence[Tensor]]:
    def run(state: Tensor, q: Tensor, k: Tensor, v: Tensor, *rates: Tensor) -> Sequence[Tensor]:
        beta = rates[0] if case[0] else None
        decay = None if case[1] == "none" else rates[-1]
        tensors = [None if x is None else x.to(DEVICE) for x in (q, k, v, beta, decay, state, cu_seqlens)]
        output, last = recurrence_op(*tensors, SCALE, CHUNK)  # type: ignore[arg-type]
        return output.cpu(), last.cpu()

    return run


def naive(case: Case) -> Callable[..., tuple[Tensor, Tensor]]:
    def run(state: Tensor, q: Tensor, k: Tensor, v: Tensor, *rates: Tensor) -> tuple[Tensor, Tensor]:
        if not case[0]:
            return naive_linear_attention(q, k, v, rates[0] if rates else None, SCALE, state)
        if case[1] == "none":
            return naive_delta_rule(q, k, v, rates[0], SCALE, state)
        return naive_gated_delta_rule(q, k, v, rates[0], rates[1], SCALE, state)

    return run


@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        pytest.param((False, "none", 17, 16, 16), torch.float32, id="linear_attention"),
        pytest.param((False, "head", 21, 9, 5), torch.bfloat16, id="linear_attention-head-bfloat16"),
        pytest.param(
            (False, "channel", 17, 20, 9),
            torch.float32,
            id="linear_attention-channel",
            marks=pytest.mark.slow,
        ),
        pytest.param((True, "none", 1, 16, 16), torch.float32, id="delta_rule-length-1"),
        pytest.param((True, "none", 33, 70, 34), torch.bfloat16, id="delta_rule", marks=pytest.mark.slow),
        pytest.param((True, "head", 19, 17, 40), torch.float32, id="gated_delta_rule"),
        pytest.param(
            (True, "channel", 18, 17, 5), torch.float32, id="gated_delta_rule-channel", marks=pytest.mark.slow
        ),
    ],
)
def test_equal_the_recurrence(case: Case, dtype: torch.dtype, same_function: Callable[..., None]) -> None:
    same_function(kernels(case), naive(case), inputs(case), dtype)


@pytest.mark.slow
def test_documents_are_each_on_their_own(same_function: Callable[..., None]) -> None:
    case: Case = (True, "channel", 21, 16, 16)
    borders = torch.tensor([0, 3, 20, 21])
    same_function(
        kernels(case, borders),
        lambda state, *x: document_by_document(naive(case), borders, state, *x),
        inputs(case, states=3),
        torch.float32,
    )


@pytest.mark.parametrize(
    ("decays", "rate", "strength", "norm"),
    [
        ("none", 0.0, 0.0, 30.0),
        ("head", 1.0, 0.0, 1.0),
        ("head", 2.0, -50.0, 1.0),
        pytest.param("channel", 2.0, 0.0, 1.0, marks=pytest.mark.slow),
        pytest.param("channel", 1.0, -50.0, 1.0, marks=pytest.mark.slow),
    ],
)
def test_edges(
    decays: str, rate: float, strength: float, norm: float, same_function: Callable[..., None]
) -> None:
    """Decay 0 and 1, beta 0, 1 and 2, large values."""
    case: Case = (True, decays, 17, 16, 16)
    state, q, k, v, beta, *decay = inputs(case)
    rates = [torch.full_like(beta, rate), *(torch.full_like(x, strength) for x in decay)]
    same_function(kernels(case), naive(case), [state, norm * q, k, norm * v, *rates], torch.float32, 0.01)


@pytest.mark.parametrize("decays", ["none", "head"])
def test_compile_into_one_graph(decays: str) -> None:
    """Through the shapes that are registered for a tracer; the kernels themselves don't run here."""
    case: Case = (True, decays, 17, 16, 8)
    leaves = [x.float().requires_grad_() for x in inputs(case)]
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=False) as mode:
        fakes = [mode.from_tensor(x) for x in leaves]
        state, q, k, v, *rates = fakes
        rates += [None] * (2 - len(rates))  # type: ignore[list-item]
        compiled = torch.compile(
            lambda *x: recurrence_op(*x, None, SCALE, CHUNK), fullgraph=True, backend="aot_eager"
        )
        output, last = compiled(q, k, v, *rates, state)
        slopes = torch.autograd.grad([output.sum() + last.sum()], fakes)
    assert output.shape == v.shape
    assert [x.shape for x in slopes] == [x.shape for x in leaves]
