"""The operators on this machine's device against their definitions: compilers and drivers have got them wrong."""

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional

from asiarch.hpc.doctor.findings import Finding
from asiarch.kernels import (
    delta_rule,
    fused_linear_cross_entropy,
    gated_delta_rule,
    gated_rms_norm,
    linear_attention,
    rms_norm,
    short_convolution,
    sliding_window_attention,
)
from asiarch.kernels.cross_entropy.naive import naive_linear_cross_entropy
from asiarch.kernels.delta_rule.naive import naive_delta_rule
from asiarch.kernels.documents import document_by_document
from asiarch.kernels.gated_delta_rule.naive import naive_gated_delta_rule
from asiarch.kernels.linear_attention.naive import naive_linear_attention
from asiarch.kernels.normalization.naive import naive_gated_rms_norm, naive_rms_norm
from asiarch.kernels.short_convolution.naive import naive_short_convolution
from asiarch.kernels.sliding_window_attention.naive import naive_sliding_window_attention
from asiarch.models.errors import UserError

BOUNDS = {torch.float32: 1e-4, torch.bfloat16: 2e-2}  # against float64, root mean squares
BATCH, LENGTH, HEADS, DIM = 2, 130, 2, 32
WINDOW, VOCABULARY = 40, 50

Operator = Callable[..., Tensor]


def examine_operators() -> Iterator[Finding]:
    """Outputs and all gradients on the device, against the naive form in float64 on the CPU.

    In float32, and on a GPU, whose kernels are compiled for each dtype, in bfloat16 too.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtypes = [torch.float32, torch.bfloat16] if device.type == "cuda" else [torch.float32]
    for dtype, (name, case) in itertools.product(dtypes, _cases().items()):
        what = f"operator {name}" + (" in bfloat16" if dtype == torch.bfloat16 else "")
        error, bound = operator_error(*case, device, dtype), BOUNDS[dtype]
        if error <= bound:
            yield Finding(what, "ok", f"error {error:.1e} on {device}")
        else:
            yield Finding(
                what,
                "error",
                f"error {error:.1e} on {device}, {bound:.0e} is allowed",
                "don't train here: try another version of torch, triton or the driver",
            )


def require_operators() -> None:
    """Refuse to go on, with the operator's name and the size of its error, where one is wrong on this machine."""
    wrong = [finding for finding in examine_operators() if finding.level == "error"]
    if wrong:
        found = "; ".join(f"{finding.what}: {finding.found}" for finding in wrong)
        raise UserError(f"{found}: {wrong[0].remedy}; look again with `asiarch-hpc doctor --kernels`")


def operator_error(
    operator: Operator,
    definition: Operator,
    inputs: list[Tensor],
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> float:
    """The largest ratio of root mean squares, error to value, over the output and the gradient of each input."""
    ours = _output_and_gradients(operator, [x.to(device, dtype) for x in inputs])
    # rounded first, so that both see the same numbers
    truth = _output_and_gradients(definition, [x.to(dtype).double() for x in inputs])
    ratios = [(a.cpu().double() - b).norm() / b.norm() for a, b in zip(ours, truth, strict=True)]
    # a NaN is no small error
    return max(float(ratio) if ratio.isfinite() else float("inf") for ratio in ratios)


def _output_and_gradients(operator: Operator, inputs: list[Tensor]) -> list[Tensor]:
    leaves = [x.clone().requires_grad_() for x in inputs]
    output = operator(*leaves)
    weights = torch.linspace(-1, 1, output.numel(), dtype=torch.float64, device=output.device)
    return [output.detach(), *torch.autograd.grad((output * weights.view_as(output)).sum(), leaves)]


def _convolution(borders: Tensor) -> Operator:
    """Bias, SiLU, documents and their states; the output has the last states at its end."""

    def operator(x: Tensor, weight: Tensor, bias: Tensor, states: Tensor) -> Tensor:
        y, last = short_convolution(
            x, weight, bias, activation="silu", initial_state=states,
            output_final_state=True, cu_seqlens=borders.to(x.device),
        )  # fmt: skip
        assert last is not None
        return torch.cat([y[0], last.flatten(0, 1)])

    return operator


def _naive_convolution(borders: Tensor) -> Operator:
    def definition(x: Tensor, weight: Tensor, bias: Tensor, states: Tensor) -> Tensor:
        y, last = document_by_document(
            lambda state, part: naive_short_convolution(part, weight, bias, state), borders, states, x
        )
        return torch.cat([functional.silu(y[0]), last.flatten(0, 1)])

    return definition


def _cases() -> dict[str, tuple[Operator, Operator, list[Tensor]]]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    q, k, v = (normal(BATCH, LENGTH, HEADS, DIM) for _ in range(3))
    k = functional.normalize(k, dim=-1)
    beta = torch.rand(BATCH, LENGTH, HEADS, generator=generator, dtype=torch.float64)
    decay = -normal(BATCH, LENGTH, HEADS).abs()
    by_channel = -normal(BATCH, LENGTH, HEADS, DIM).abs()
    scale = DIM**-0.5
    targets = torch.arange(BATCH * LENGTH).view(BATCH, LENGTH) % VOCABULARY
    channels, gate, weight = normal(BATCH, LENGTH, DIM), normal(BATCH, LENGTH, DIM), normal(DIM)
    taps, pasts = normal(DIM, 4), normal(BATCH, 3, DIM)
    row, borders = channels.view(1, -1, DIM), torch.tensor([0, 1, BATCH * LENGTH])

    def linear(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None = None) -> Tensor:
        return naive_linear_attention(q, k, v, log_decay, scale, None)[0]

    return {
        "linear_attention": (lambda *x: linear_attention(*x)[0], linear, [q, k, v]),
        "linear_attention, decay by head": (lambda *x: linear_attention(*x)[0], linear, [q, k, v, decay]),
        "linear_attention, decay by channel": (
            lambda *x: linear_attention(*x)[0],
            linear,
            [q, k, v, by_channel],
        ),
        "delta_rule": (
            lambda *x: delta_rule(*x)[0],
            lambda q, k, v, beta: naive_delta_rule(q, k, v, beta, scale, None)[0],
            [q, k, v, beta],
        ),
        "gated_delta_rule": (
            lambda *x: gated_delta_rule(*x)[0],
            lambda q, k, v, beta, g: naive_gated_delta_rule(q, k, v, beta, g, scale, None)[0],
            [q, k, v, beta, decay],
        ),
        "gated_delta_rule, decay by channel": (
            lambda *x: gated_delta_rule(*x)[0],
            lambda q, k, v, beta, g: naive_gated_delta_rule(q, k, v, beta, g, scale, None)[0],
            [q, k, v, beta, by_channel],
        ),
        "fused_linear_cross_entropy": (
            lambda h, w: fused_linear_cross_entropy(h, w, targets.to(h.device), reduction="none"),
            lambda h, w: naive_linear_cross_entropy(h, w, targets, -100),
            [channels, normal(VOCABULARY, DIM)],
        ),
        "rms_norm": (rms_norm, lambda x, w: naive_rms_norm(x, w, 1e-5), [channels, weight]),
        "gated_rms_norm": (
            gated_rms_norm,
            lambda x, gate, w: naive_gated_rms_norm(x, gate, w, 1e-5),
            [channels, gate, weight],
        ),
        "short_convolution": (
            lambda x, w: short_convolution(x, w)[0],
            lambda x, w: naive_short_convolution(x, w, None, None)[0],
            [channels, taps],
        ),
        "short_convolution, all it can have": (
            _convolution(borders),
            _naive_convolution(borders),
            [row, taps, weight, pasts],
        ),
        "sliding_window_attention": (
            lambda q, k, v: sliding_window_attention(q, k, v, WINDOW),
            lambda q, k, v: naive_sliding_window_attention(q, k, v, WINDOW, scale),
            [q, k, v],
        ),
    }
