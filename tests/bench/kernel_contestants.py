"""The operators that `kernels.py` times, and what each stands beside.

naive: the operator's definition. fla: flash-linear-attention's kernel on a GPU, on a CPU its naive form, in chunks
where it has one (it has none for a decay by channel that adds). PyTorch: what one would write without this project;
for the operators that mix tokens, causal softmax attention, another function of the same shapes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from asiarch import kernels
from asiarch.kernels.cross_entropy.naive import naive_linear_cross_entropy
from asiarch.kernels.delta_rule.naive import naive_delta_rule
from asiarch.kernels.gated_delta_rule.naive import naive_gated_delta_rule
from asiarch.kernels.linear_attention.naive import naive_linear_attention
from asiarch.kernels.normalization.naive import naive_gated_rms_norm, naive_rms_norm
from asiarch.kernels.recurrence import CPU_CHUNK
from asiarch.kernels.short_convolution.naive import naive_short_convolution
from asiarch.kernels.sliding_window_attention.naive import naive_sliding_window_attention

Function = Callable[..., Tensor]
WINDOW, WIDTH, VOCABULARY = 256, 4, 8192


@dataclass(frozen=True)
class Sizes:
    """What is the same in all rows."""

    batch: int
    heads: int
    dim: int  # of keys and values; heads * dim channels
    dtype: torch.dtype
    device: torch.device

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(self.batch, *shape).to(self.device, self.dtype)

    @property
    def channels(self) -> int:
        return self.heads * self.dim


@dataclass(frozen=True)
class Entry:
    """An operator: its inputs at a length, its contestants, and the FLOPs of its matrix products, forward."""

    name: str
    inputs: Callable[[int], list[Tensor]]
    ours: Function
    naive: Function
    rivals: dict[str, Function]
    flops: Callable[[int], float] | None = None
    other_functions: frozenset[str] = field(default=frozenset())  # rivals whose output differs by nature


def entries(sizes: Sizes) -> list[Entry]:
    """All operators."""
    return [*_recurrences(sizes), _window(sizes), _convolution(sizes), *_norms(sizes), _loss(sizes)]


def recurrence_flops(sizes: Sizes, length: int, delta: bool) -> float:
    """Matrix products of the chunkwise form, forward: B H L (4KV + 2C(K+V)), for delta rules (6KV + 2C(3K+2V)).

    K x V state: read and written by each position, by a delta rule also read for what it replaces. C x C squares,
    whole: scores and outputs; for delta rules also overlaps, and the inverse times keys and values. The inverse is not
    counted.
    """
    dim, chunk = sizes.dim, CPU_CHUNK
    if sizes.device.type == "cuda":
        from asiarch.kernels.recurrence.triton_op import chunk_size_for, is_exact

        chunk = chunk_size_for(dim, dim, is_exact(sizes.dtype, delta))
    each = 6 * dim**2 + 2 * chunk * 5 * dim if delta else 4 * dim**2 + 2 * chunk * 2 * dim
    return float(sizes.batch * sizes.heads * length * each)


def _recurrences(sizes: Sizes) -> list[Entry]:
    scale, found = sizes.dim**-0.5, []

    def attention(q: Tensor, k: Tensor, v: Tensor, *_: Tensor) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)

    for name, delta, decay in [
        ("linear_attention", False, ""),
        ("linear_attention, decay by head", False, "head"),
        ("linear_attention, decay by channel", False, "channel"),
        ("delta_rule", True, ""),
        ("gated_delta_rule", True, "head"),
        ("gated_delta_rule, decay by channel", True, "channel"),
    ]:

        def inputs(length: int, delta: bool = delta, decay: str = decay) -> list[Tensor]:
            heads = (length, sizes.heads)
            q, k, v = (sizes.normal(*heads, sizes.dim) for _ in range(3))
            rates = [sizes.normal(*heads).sigmoid()] if delta else []
            if decay:
                shape = (*heads, sizes.dim) if decay == "channel" else heads
                rates.append(functional.logsigmoid(4 + sizes.normal(*shape)))
            return [q, functional.normalize(k, dim=-1), v, *rates]

        operator: Any = getattr(kernels, name.split(",")[0])

        def ours(*x: Tensor, operator: Any = operator) -> Tensor:
            return operator(*x)[0]

        def naive(*x: Tensor, delta: bool = delta, decay: str = decay) -> Tensor:
            if not delta:
                return naive_linear_attention(*x[:3], x[3] if decay else None, scale, None)[0]
            if not decay:
                return naive_delta_rule(*x, scale, None)[0]
            return naive_gated_delta_rule(*x, scale, None)[0]

        def flops(length: int, delta: bool = delta) -> float:
            return recurrence_flops(sizes, length, delta)

        rivals = {"fla": _fla(name, sizes.device), "PyTorch": attention}
        found.append(Entry(name, inputs, ours, naive, _there(rivals), flops, frozenset({"PyTorch"})))
    return found


def _window(sizes: Sizes) -> Entry:
    def inputs(length: int) -> list[Tensor]:
        return [sizes.normal(length, sizes.heads, sizes.dim) for _ in range(3)]

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)

    return Entry(
        f"sliding_window_attention, window {WINDOW}",
        inputs,
        lambda *x: kernels.sliding_window_attention(*x, WINDOW),
        lambda *x: naive_sliding_window_attention(*x, WINDOW, sizes.dim**-0.5),
        {"PyTorch": attention},
        other_functions=frozenset({"PyTorch"}),
    )


def _convolution(sizes: Sizes) -> Entry:
    channels = sizes.channels

    def inputs(length: int) -> list[Tensor]:
        return [
            sizes.normal(length, channels),
            sizes.normal(channels, WIDTH)[0],
            sizes.normal(channels)[0],
        ]

    def by_pytorch(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        padded = functional.pad(x.mT, (WIDTH - 1, 0))
        return functional.silu(functional.conv1d(padded, weight.unsqueeze(1), bias, groups=channels).mT)

    rivals = {"fla": _fla("short_convolution", sizes.device), "PyTorch": by_pytorch}
    return Entry(
        f"short_convolution, width {WIDTH}",
        inputs,
        lambda x, weight, bias: kernels.short_convolution(x, weight, bias, activation="silu")[0],
        lambda x, weight, bias: functional.silu(naive_short_convolution(x, weight, bias, None)[0]),
        _there(rivals),
    )


def _norms(sizes: Sizes) -> list[Entry]:
    channels = sizes.channels

    def inputs(length: int) -> list[Tensor]:
        return [sizes.normal(length, channels), sizes.normal(channels)[0]]

    def by_pytorch(x: Tensor, weight: Tensor, gate: Tensor | None = None) -> Tensor:
        y = functional.rms_norm(x, (channels,), weight, 1e-5)
        return y if gate is None else y * functional.silu(gate)

    return [
        Entry(
            "rms_norm",
            inputs,
            kernels.rms_norm,
            lambda x, weight: naive_rms_norm(x, weight, 1e-5),
            _there({"fla": _fla("rms_norm", sizes.device), "PyTorch": by_pytorch}),
        ),
        Entry(
            "gated_rms_norm",
            lambda length: [*inputs(length), sizes.normal(length, channels)],
            lambda x, weight, gate: kernels.gated_rms_norm(x, gate, weight),
            lambda x, weight, gate: naive_gated_rms_norm(x, gate, weight, 1e-5),
            _there({"fla": _fla("gated_rms_norm", sizes.device), "PyTorch": by_pytorch}),
        ),
    ]


def _loss(sizes: Sizes) -> Entry:
    channels = sizes.channels

    def targets(hidden: Tensor) -> Tensor:
        return torch.arange(hidden.shape[1], device=hidden.device).expand(hidden.shape[:2]) % VOCABULARY

    def by_pytorch(hidden: Tensor, weight: Tensor) -> Tensor:
        logits = (hidden @ weight.mT).flatten(0, 1)
        return functional.cross_entropy(logits, targets(hidden).flatten())

    return Entry(
        f"fused_linear_cross_entropy, vocabulary {VOCABULARY}",
        lambda length: [
            sizes.normal(length, channels),
            sizes.normal(VOCABULARY, channels)[0] / channels**0.5,
        ],
        lambda hidden, weight: kernels.fused_linear_cross_entropy(hidden, weight, targets(hidden)),
        lambda hidden, weight: naive_linear_cross_entropy(hidden, weight, targets(hidden), -100).mean(),
        _there({"fla": _fla("fused_linear_cross_entropy", sizes.device), "PyTorch": by_pytorch}),
        flops=lambda length: 2.0 * sizes.batch * length * channels * VOCABULARY,
    )


def _there(rivals: dict[str, Function | None]) -> dict[str, Function]:
    return {name: rival for name, rival in rivals.items() if rival is not None}


def _fla(operator: str, device: torch.device) -> Function | None:
    """Its function with the arguments of ours, or None where it is not installed or has none."""
    home, call = (FLA_KERNELS if device.type == "cuda" else FLA_NAIVE).get(operator, ("", None))
    if call is None:
        return None
    try:
        module = import_module(home)
    except ImportError:
        return None
    return lambda *x: _first(call(module, *x))


def _first(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def _delta_rule_by_heads(module: Any, *x: Tensor) -> Tensor:
    found = _first(module.delta_rule_chunkwise(*(t.transpose(1, 2) for t in x)))
    return found.transpose(1, 2)


Call = Callable[..., Any]
FLA_NAIVE: dict[str, tuple[str, Call]] = {
    "linear_attention": ("fla.ops.linear_attn.naive", lambda m, *x: m.naive_chunk_linear_attn(*x)),
    "linear_attention, decay by head": (
        "fla.ops.simple_gla.naive",
        lambda m, *x: m.naive_chunk_simple_gla(*x),
    ),
    "linear_attention, decay by channel": ("fla.ops.gla.naive", lambda m, *x: m.naive_recurrent_gla(*x)),
    "delta_rule": ("fla.ops.delta_rule.naive", _delta_rule_by_heads),
    "gated_delta_rule": (
        "fla.ops.gated_delta_rule.naive",
        lambda m, q, k, v, beta, g: m.naive_chunk_gated_delta_rule(q, k, v, g=g, beta=beta),
    ),
    "gated_delta_rule, decay by channel": (
        "fla.ops.kda.naive",
        lambda m, q, k, v, beta, g: m.naive_chunk_kda(q, k, v, g=g, beta=beta),
    ),
}
FLA_KERNELS: dict[str, tuple[str, Call]] = {
    "linear_attention": ("fla.ops.linear_attn", lambda m, *x: m.chunk_linear_attn(*x, normalize=False)),
    "linear_attention, decay by head": ("fla.ops.simple_gla", lambda m, *x: m.chunk_simple_gla(*x)),
    "linear_attention, decay by channel": ("fla.ops.gla", lambda m, *x: m.chunk_gla(*x)),
    "delta_rule": ("fla.ops.delta_rule", lambda m, *x: m.chunk_delta_rule(*x)),
    "gated_delta_rule": (
        "fla.ops.gated_delta_rule",
        lambda m, q, k, v, beta, g: m.chunk_gated_delta_rule(q, k, v, g=g, beta=beta),
    ),
    "gated_delta_rule, decay by channel": (
        "fla.ops.kda",
        lambda m, q, k, v, beta, g: m.chunk_kda(q, k, v, g=g, beta=beta),
    ),
    "short_convolution": (
        "fla.modules.causal_conv1d.ops",
        lambda m, x, weight, bias: m.causal_conv1d(x, weight, bias, activation="silu"),
    ),
    "rms_norm": ("fla.modules.norm.layernorm", lambda m, x, weight: m.rms_norm(x, weight, None)),
    "gated_rms_norm": (
        "fla.modules.norm.fused_norm_gate",
        lambda m, x, weight, gate: m.rms_norm_gated(x, gate, weight, None, eps=1e-5),
    ),
    "fused_linear_cross_entropy": (
        "fla.modules.fused_linear_cross_entropy.ops",
        lambda m, hidden, weight: m.fused_linear_cross_entropy_loss(
            hidden.flatten(0, 1),
            torch.arange(hidden.shape[1], device=hidden.device).repeat(len(hidden)) % VOCABULARY,
            weight,
        ),
    ),
}
