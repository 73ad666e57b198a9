"""Activations by name, and the gated feed-forward network (`fla.modules.activations`, `fla.modules.mlp`)."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def sigmoid(x: Tensor) -> Tensor:
    return torch.sigmoid(x)


def swish(x: Tensor) -> Tensor:
    """x sigmoid(x)."""
    return functional.silu(x)


def logsigmoid(x: Tensor, temperature: float = 1.0) -> Tensor:
    """log(sigmoid(x)) / temperature."""
    return functional.logsigmoid(x) / temperature


def elu_p1(x: Tensor) -> Tensor:
    """elu(x) + 1, which is positive."""
    return (functional.elu(x, 1.0, False) + 1.0).to(x)


def sqrelu(x: Tensor) -> Tensor:
    """relu(x)^2."""
    return functional.relu(x).square()


def fast_gelu_impl(x: Tensor) -> Tensor:
    """GELU by its tanh approximation."""
    return functional.gelu(x, approximate="tanh")


def swiglu(x: Tensor, y: Tensor) -> Tensor:
    """silu(x) y."""
    return functional.silu(x) * y


def sigmoidglu(x: Tensor, y: Tensor) -> Tensor:
    """sigmoid(x) y."""
    return torch.sigmoid(x) * y


def swiglu_linear(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A projection of silu(x) y."""
    return functional.linear(swiglu(x, y), weight, bias)


ACT2FN = {
    "relu": functional.relu,
    "sigmoid": sigmoid,
    "logsigmoid": logsigmoid,
    "silu": swish,
    "swish": swish,
    "sqrelu": sqrelu,
    "gelu": fast_gelu_impl,
}


class GatedMLP(nn.Module):
    """down(silu(gate(x)) up(x)); the width is about 2/3 of `hidden_ratio`, to the next multiple of 256."""

    def __init__(
        self,
        hidden_size: int,
        hidden_ratio: int | None = None,
        intermediate_size: int | None = None,
        hidden_act: str = "swish",
        fuse_swiglu: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        if hidden_act != "swish":
            raise ValueError(f"hidden_act is {hidden_act!r}, expected swish")
        if intermediate_size is None:
            intermediate_size = -(-int(hidden_size * (hidden_ratio or 4) * 2 / 3) // 256) * 256
        self.hidden_size, self.intermediate_size = hidden_size, intermediate_size
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        """(..., D) -> (..., D)."""
        return self.down_proj(swiglu(self.gate_proj(x), self.up_proj(x)))
