"""The operators on this machine's device against their definitions: compilers and drivers have got them wrong."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional

from asiarch.hpc.doctor.findings import Finding
from asiarch.kernels import (
    delta_rule,
    fused_linear_cross_entropy,
    gated_delta_rule,
    linear_attention,
    short_convolution,
    sliding_window_attention,
)
from asiarch.kernels.cross_entropy.naive import naive_linear_cross_entropy
from asiarch.kernels.delta_rule.naive import naive_delta_rule
from asiarch.kernels.gated_delta_rule.naive import naive_gated_delta_rule
from asiarch.kernels.linear_attention.naive import naive_linear_attention
from asiarch.kernels.short_convolution.naive import naive_short_convolution
from asiarch.kernels.sliding_window_attention.naive import naive_sliding_window_attention
from asiarch.models.errors import UserError

BOUND = 1e-4  # float32 against float64, root mean squares
BATCH, LENGTH, HEADS, DIM = 2, 130, 2, 32
WINDOW, VOCABULARY = 40, 50

Operator = Callable[..., Tensor]


def examine_operators() -> Iterator[Finding]:
    """Outputs and all gradients in float32 on the device, against the naive form in float64 on the CPU."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for name, (operator, definition, inputs) in _cases().items():
        error = operator_error(operator, definition, inputs, device)
        what = f"operator {name}"
        if error <= BOUND:
            yield Finding(what, "ok", f"error {error:.1e} on {device}")
        else:
            yield Finding(
                what,
                "error",
                f"error {error:.1e} on {device}, {BOUND:.0e} is allowed",
                "don't train here: try another version of torch, triton or the driver",
            )


def require_operators() -> None:
    """Refuse to go on, with the operator's name and the size of its error, where one is wrong on this machine."""
    wrong = [finding for finding in examine_operators() if finding.level == "error"]
    if wrong:
        found = "; ".join(f"{finding.what}: {finding.found}" for finding in wrong)
        raise UserError(f"{found}: {wrong[0].remedy}; look again with `asiarch-hpc doctor --kernels`")


def operator_error(
    operator: Operator, definition: Operator, inputs: list[Tensor], device: torch.device
) -> float:
    """The largest ratio of root mean squares, error to value, over the output and the gradient of each input."""
    ours = _output_and_gradients(operator, [x.to(device, torch.float32) for x in inputs])
    truth = _output_and_gradients(definition, [x.double() for x in inputs])
    ratios = [(a.cpu().double() - b).norm() / b.norm() for a, b in zip(ours, truth, strict=True)]
    # a NaN is no small error
    return max(float(ratio) if ratio.isfinite() else float("inf") for ratio in ratios)


def _output_and_gradients(operator: Operator, inputs: list[Tensor]) -> list[Tensor]:
    leaves = [x.clone().requires_grad_() for x in inputs]
    output = operator(*leaves)
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype, device=output.device)
    return [output.detach(), *torch.autograd.grad((output * weights.view_as(output)).sum(), leaves)]


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
    channels, taps = normal(BATCH, LENGTH, DIM), normal(DIM, 4)

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
        "short_convolution": (
            lambda x, w: short_convolution(x, w)[0],
            lambda x, w: naive_short_convolution(x, w, None, None)[0],
            [channels, taps],
        ),
        "sliding_window_attention": (
            lambda q, k, v: sliding_window_attention(q, k, v, WINDOW),
            lambda q, k, v: naive_sliding_window_attention(q, k, v, WINDOW, scale),
            [q, k, v],
        ),
    }
