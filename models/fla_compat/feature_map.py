"""Feature maps of queries and keys, on the last dimension (`fla.modules.feature_map`)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from asiarch.models.fla_compat.activations import fast_gelu_impl, sqrelu


class HedgehogFeatureMap(nn.Module):
    """Softmax over a learned map and its negative, 2 D features; Zhang et al., "The Hedgehog & the Porcupine", 2024."""

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.layer = nn.Linear(head_dim, head_dim)
        self.init_weights_()

    def init_weights_(self) -> None:
        """The identity."""
        nn.init.eye_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        y = 2 * self.layer(x)
        return torch.cat([y, -y], dim=-1).softmax(-1)


class T2RFeatureMap(nn.Module):
    """relu of a learned map; Kasai et al., "Finetuning Pretrained Transformers into RNNs", 2021."""

    def __init__(self, head_dim: int, dot_dim: int | None = None, bias: bool | None = False) -> None:
        super().__init__()
        self.layer = nn.Linear(head_dim, dot_dim or head_dim, bias=bool(bias))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).relu()


class DPFPFeatureMap(nn.Module):
    """Products of rectified channels with their neighbours, 2 nu D features; Schlag et al., 2021, eq. 37."""

    def __init__(self, head_dim: int, nu: int = 4) -> None:
        super().__init__()
        self.nu = nu

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x.relu(), (-x).relu()], dim=-1)
        return torch.cat([x * x.roll(shift, dims=-1) for shift in range(1, self.nu + 1)], dim=-1)


class HadamardFeatureMap(nn.Module):
    """The product of two learned maps."""

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.layer1 = nn.Linear(head_dim, head_dim)
        self.layer2 = nn.Linear(head_dim, head_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer1(x) * self.layer2(x)


class ReLUFeatureMap(nn.Module):
    """relu."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x)


class SquaredReLUFeatureMap(nn.Module):
    """relu squared."""

    def forward(self, x: Tensor) -> Tensor:
        return sqrelu(x)


class GELUFeatureMap(nn.Module):
    """GELU by its tanh approximation."""

    def forward(self, x: Tensor) -> Tensor:
        return fast_gelu_impl(x)


class SwishFeatureMap(nn.Module):
    """x sigmoid(x)."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.silu(x)


class SigmoidFeatureMap(nn.Module):
    """sigmoid."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x)
