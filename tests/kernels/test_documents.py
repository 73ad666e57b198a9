"""Documents in one row, single steps, and compiled graphs: what all operators with a state have in common."""

from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from asiarch.kernels import delta_rule, gated_delta_rule, linear_attention, short_convolution
from asiarch.kernels.delta_rule.naive import naive_delta_rule
from asiarch.kernels.documents import chunk_table, document_by_document
from asiarch.kernels.gated_delta_rule.naive import naive_gated_delta_rule
from asiarch.kernels.linear_attention.naive import naive_linear_attention
from asiarch.kernels.short_convolution.naive import naive_short_convolution

HEADS, KEY, VALUE, TAPS, SCALE = 2, 5, 3, 4, 0.4
Function = Callable[..., Sequence[Tensor]]


class Case:
    """One operator: its inputs for some sequences, and both of its forms, (state, *inputs) -> (output, state)."""

    def __init__(self, operator: str, decays: str = "none") -> None:
        self.operator, self.decays = operator, decays

    def inputs(self, batch: int, length: int, states: int, seed: int = 0) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        if self.operator == "short_convolution":
            return [normal(states, TAPS - 1, KEY), normal(batch, length, KEY)]
        keys = functional.normalize(normal(batch, length, HEADS, KEY), dim=-1)
        tensors = [normal(states, HEADS, KEY, VALUE), normal(*keys.shape), keys]
        tensors.append(normal(batch, length, HEADS, VALUE))
        if self.operator != "linear_attention":
            tensors.append(1 + normal(batch, length, HEADS).tanh())
        if self.decays != "none":
            tensors.append(-normal(*(keys.shape if self.decays == "channel" else keys.shape[:3])).abs())
        return tensors

    def fast(self, state: Tensor | None, *x: Tensor, cu_seqlens: Tensor | None = None) -> Sequence[Tensor]:
        common = {"initial_state": state, "output_final_state": True, "cu_seqlens": cu_seqlens}
        if self.operator == "short_convolution":
            return short_convolution(*x, *self.filters(x[0].dtype), **common)  # type: ignore[arg-type, return-value]
        operators = {
            "linear_attention": linear_attention,
            "delta_rule": delta_rule,
            "gated_delta_rule": gated_delta_rule,
        }
        return operators[self.operator](*x, scale=SCALE, chunk_size=8, **common)  # type: ignore[no-any-return, operator]

    def naive(self, state: Tensor | None, *x: Tensor) -> tuple[Tensor, Tensor]:
        if self.operator == "short_convolution":
            return naive_short_convolution(*x, *self.filters(x[0].dtype), state)
        if self.operator == "linear_attention":
            return naive_linear_attention(*x[:3], x[3] if len(x) == 4 else None, SCALE, state)
        if self.operator == "delta_rule":
            return naive_delta_rule(*x, SCALE, state)  # type: ignore[arg-type]
        return naive_gated_delta_rule(*x, SCALE, state)  # type: ignore[arg-type]

    def filters(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        weight, bias = torch.linspace(-1, 1, KEY * TAPS).view(KEY, TAPS), torch.linspace(0, 1, KEY)
        return weight.to(dtype), bias.to(dtype)


CASES = [
    *(Case("linear_attention", decays) for decays in ("none", "head", "channel")),
    Case("delta_rule"),
    *(Case("gated_delta_rule", decays) for decays in ("head", "channel")),
    Case("short_convolution"),
]
OPERATORS = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.operator}-{case.decays}")


@OPERATORS
@settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    lengths=st.lists(st.integers(1, 19), min_size=1, max_size=4),
    dtype=st.sampled_from([torch.float64, torch.float32]),
)
def test_documents_in_one_row_are_each_on_their_own(
    case: Case, lengths: list[int], dtype: torch.dtype, same_function: Callable[..., None]
) -> None:
    borders = torch.tensor([0, *lengths]).cumsum(0)
    same_function(
        lambda state, *x: case.fast(state, *x, cu_seqlens=borders.int()),
        lambda state, *x: document_by_document(case.naive, borders, state, *x),
        case.inputs(1, sum(lengths), len(lengths), seed=len(lengths)),
        dtype,
    )


@OPERATORS
def test_empty_documents_keep_their_state(case: Case) -> None:
    state, *x = case.inputs(1, 11, 4)
    empty = torch.tensor([0, 0, 9, 9, 11])
    output, last = case.fast(state, *x, cu_seqlens=empty)
    expected, full = case.fast(state[[1, 3]], *x, cu_seqlens=torch.tensor([0, 9, 11]))
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(last, torch.stack([state[0], full[0], state[2], full[1]]))


@OPERATORS
def test_without_a_state_documents_start_from_zero(case: Case) -> None:
    state, *x = case.inputs(1, 11, 2)
    borders = torch.tensor([0, 9, 11])
    for a, b in zip(
        case.fast(None, *x, cu_seqlens=borders),
        case.fast(torch.zeros_like(state), *x, cu_seqlens=borders),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@OPERATORS
def test_step_by_step_is_one_pass(case: Case, same_function: Callable[..., None]) -> None:
    def steps(state: Tensor, *x: Tensor) -> Sequence[Tensor]:
        outputs = []
        for t in range(x[0].shape[1]):
            output, state = case.fast(state, *(part[:, t : t + 1] for part in x))
            outputs.append(output)
        return torch.cat(outputs, dim=1), state

    same_function(steps, case.naive, case.inputs(2, 6, 2), torch.float32)


@OPERATORS
def test_compiles_into_one_graph(case: Case, same_function: Callable[..., None]) -> None:
    borders = torch.tensor([0, 3, 9])

    def run(state: Tensor, *x: Tensor) -> Sequence[Tensor]:
        return (*case.fast(state, *x, cu_seqlens=borders), *case.fast(state[:1], *x))

    torch.compiler.reset()
    compiled = torch.compile(run, fullgraph=True, backend="eager")
    same_function(compiled, run, case.inputs(1, 9, 2), torch.float64)


@given(lengths=st.lists(st.integers(0, 40), min_size=1, max_size=6), size=st.sampled_from([1, 8, 16]))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_chunks_hold_each_position_once_and_stay_inside_documents(lengths: list[int], size: int) -> None:
    borders = [0, *torch.tensor(lengths).cumsum(0).tolist()]
    table = chunk_table(torch.tensor(borders), borders[-1], size)
    held = []
    for start, stop, document in zip(*(x.tolist() for x in table[:3]), strict=True):
        assert stop - start <= size
        assert stop <= start or borders[document] <= start < stop <= borders[document + 1]
        held += range(start, stop)
    assert held == list(range(borders[-1]))
    assert table.opens.nonzero().squeeze(1).tolist() == table.first.tolist()
    assert table.document[table.last].tolist() == list(range(len(lengths)))


@pytest.mark.parametrize(
    ("borders", "message"),
    [
        (torch.tensor([0, 4]), "does not rise from 0 to the length 5"),
        (torch.tensor([0, 4, 3, 5]), "does not rise from 0 to the length 5"),
        (torch.tensor([0.0, 5.0]), "of int32 or int64"),
        (torch.tensor([5]), "of int32 or int64"),
    ],
)
@pytest.mark.parametrize("case", [CASES[0], CASES[-1]], ids=["linear_attention", "short_convolution"])
def test_bad_documents_are_named(case: Case, borders: Tensor, message: str) -> None:
    _, *x = case.inputs(1, 5, 1)
    with pytest.raises(ValueError, match=message):
        case.fast(None, *x, cu_seqlens=borders)
    _, *x = case.inputs(2, 5, 1)
    with pytest.raises(ValueError, match="the batch is 2, expected 1"):
        case.fast(None, *x, cu_seqlens=torch.tensor([0, 5]))
