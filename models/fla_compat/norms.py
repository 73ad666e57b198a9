"""Normalisations (`fla.modules`): of the last dimension D, after a residual sum, before a gate or a projection.

Statistics are taken in float32, or float64 for float64 inputs; the output has the input's dtype.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from asiarch.kernels import l2_norm as kernel_l2_norm

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "swish": functional.silu,
    "silu": functional.silu,
    "sigmoid": torch.sigmoid,
}


def l2norm(x: Tensor, eps: float = 1e-6, output_dtype: torch.dtype | None = None) -> Tensor:
    """x / sqrt(sum(x^2) + eps) over the last dimension."""
    y = kernel_l2_norm(x, eps)
    return y if output_dtype is None else y.to(output_dtype)


l2_norm = l2norm


def _standard(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, rms: bool, groups: int
) -> Tensor:
    wide = x.to(torch.promote_types(x.dtype, torch.float32)).unflatten(-1, (groups, -1))
    if not rms:
        wide = wide - wide.mean(-1, keepdim=True)
    y = (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).flatten(-2)
    if weight is not None:
        y = y * weight.to(y.dtype)
    return y if bias is None else y + bias.to(y.dtype)


def _norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    eps: float,
    prenorm: bool,
    residual_in_fp32: bool,
    rms: bool,
    groups: int = 1,
    gate: Tensor | None = None,
    activation: str = "swish",
) -> Any:
    """The norm of x + residual, gated where there is a gate; with `prenorm` also the sum itself."""
    total = x
    if residual is not None:
        wide = torch.float32 if residual_in_fp32 else residual.dtype
        total = x.to(torch.promote_types(x.dtype, wide)) + residual
    elif residual_in_fp32:
        total = x.float()
    y = _standard(total, weight, bias, eps, rms, groups)
    if gate is not None:
        y = y * ACTIVATIONS[activation](gate.to(y.dtype))
    return (y.to(x.dtype), total) if prenorm else y.to(x.dtype)


def rms_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    eps: float = 1e-5,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
) -> Any:
    """(x + residual) / sqrt(mean((x + residual)^2) + eps) * weight + bias."""
    return _norm(x, weight, bias, residual, eps, prenorm, residual_in_fp32, rms=True)


def layer_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    eps: float = 1e-5,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
    is_rms_norm: bool = False,
) -> Any:
    """The same with the mean taken away first."""
    return _norm(x, weight, bias, residual, eps, prenorm, residual_in_fp32, rms=is_rms_norm)


def group_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    eps: float = 1e-5,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
    is_rms_norm: bool = False,
    num_groups: int = 1,
) -> Any:
    """`layer_norm` of each of `num_groups` equal parts of the last dimension."""
    return _norm(x, weight, bias, residual, eps, prenorm, residual_in_fp32, is_rms_norm, num_groups)


def rms_norm_gated(
    x: Tensor,
    g: Tensor,
    weight: Tensor | None,
    bias: Tensor | None = None,
    activation: str = "swish",
    residual: Tensor | None = None,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
    eps: float = 1e-6,
) -> Any:
    """`rms_norm` times activation(g); swish, silu or sigmoid."""
    return _norm(
        x, weight, bias, residual, eps, prenorm, residual_in_fp32, rms=True, gate=g, activation=activation
    )


def layer_norm_gated(
    x: Tensor,
    g: Tensor,
    weight: Tensor | None,
    bias: Tensor | None = None,
    activation: str = "swish",
    residual: Tensor | None = None,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
    eps: float = 1e-6,
) -> Any:
    """`layer_norm` times activation(g); swish, silu or sigmoid."""
    return _norm(
        x, weight, bias, residual, eps, prenorm, residual_in_fp32, rms=False, gate=g, activation=activation
    )


class _Norm(nn.Module):
    """Weight (hidden_size,) from ones and bias from zeros, each where it is asked for."""

    rms = True
    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(
        self,
        hidden_size: int,
        elementwise_affine: bool = True,
        bias: bool = False,
        eps: float = 1e-5,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.elementwise_affine = elementwise_affine
        self.eps = eps
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        affine = elementwise_affine
        self.register_parameter("weight", nn.Parameter(torch.ones(hidden_size, **made)) if affine else None)
        self.register_parameter(
            "bias", nn.Parameter(torch.zeros(hidden_size, **made)) if affine and bias else None
        )

    def reset_parameters(self) -> None:
        """Ones and zeros again."""
        if self.weight is not None:
            nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def extra_repr(self) -> str:
        return f"{self.hidden_size}, eps={self.eps}"

    def forward(
        self, x: Tensor, residual: Tensor | None = None, prenorm: bool = False, residual_in_fp32: bool = False
    ) -> Any:
        """(..., D) -> (..., D), and the residual sum with `prenorm`."""
        return _norm(x, self.weight, self.bias, residual, self.eps, prenorm, residual_in_fp32, self.rms)


class RMSNorm(_Norm):
    """Root mean square norm."""


class LayerNorm(_Norm):
    """Layer norm; without a bias unless it is asked for."""

    rms = False


class GroupNorm(_Norm):
    """Layer norm, or with `is_rms_norm` root mean square norm, of each of `num_groups` parts."""

    def __init__(
        self,
        num_groups: int,
        hidden_size: int,
        elementwise_affine: bool = True,
        bias: bool = False,
        eps: float = 1e-5,
        is_rms_norm: bool = False,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(hidden_size, elementwise_affine, bias, eps, device, dtype)
        if hidden_size % num_groups:
            raise ValueError(f"hidden_size {hidden_size} is not a multiple of num_groups {num_groups}")
        self.num_groups = num_groups
        self.is_rms_norm = is_rms_norm

    def forward(
        self, x: Tensor, residual: Tensor | None = None, prenorm: bool = False, residual_in_fp32: bool = False
    ) -> Any:
        return group_norm(
            x,
            self.weight,
            self.bias,
            residual,
            self.eps,
            prenorm,
            residual_in_fp32,
            self.is_rms_norm,
            self.num_groups,
        )


class RMSNormLinear(_Norm):
    """Norm, then a projection whose weight and bias come with the call."""

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        residual: Tensor | None = None,
        prenorm: bool = False,
        residual_in_fp32: bool = False,
    ) -> Any:
        normed = super().forward(x, residual, prenorm, residual_in_fp32)
        if prenorm:
            return functional.linear(normed[0], weight, bias), normed[1]
        return functional.linear(normed, weight, bias)


class LayerNormLinear(RMSNormLinear):
    """The same with a layer norm."""

    rms = False


class FusedRMSNormGated(_Norm):
    """Root mean square norm times activation(gate)."""

    def __init__(
        self,
        hidden_size: int,
        elementwise_affine: bool = True,
        eps: float = 1e-5,
        activation: str = "swish",
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(hidden_size, elementwise_affine, False, eps, device, dtype)
        self.activation = _known(activation)

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        g: Tensor,
        residual: Tensor | None = None,
        prenorm: bool = False,
        residual_in_fp32: bool = False,
    ) -> Any:
        """x and g (..., D) -> (..., D), and the residual sum with `prenorm`."""
        return _norm(
            x,
            self.weight,
            self.bias,
            residual,
            self.eps,
            prenorm,
            residual_in_fp32,
            self.rms,
            gate=g,
            activation=self.activation,
        )


class FusedRMSNormSwishGate(FusedRMSNormGated):
    """Root mean square norm times silu(gate)."""

    def __init__(
        self,
        hidden_size: int,
        elementwise_affine: bool = True,
        eps: float = 1e-5,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(hidden_size, elementwise_affine, eps, "swish", device, dtype)


class FusedLayerNormGated(FusedRMSNormGated):
    """Layer norm times activation(gate)."""

    rms = False

    def __init__(
        self,
        hidden_size: int,
        elementwise_affine: bool = True,
        bias: bool = False,
        activation: str = "swish",
        eps: float = 1e-5,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        _Norm.__init__(self, hidden_size, elementwise_affine, bias, eps, device, dtype)
        self.activation = _known(activation)


class FusedLayerNormSwishGate(FusedLayerNormGated):
    """Layer norm times silu(gate)."""

    def __init__(
        self,
        hidden_size: int,
        elementwise_affine: bool = True,
        bias: bool = False,
        eps: float = 1e-5,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(hidden_size, elementwise_affine, bias, "swish", eps, device, dtype)


class RMSNormGated(nn.Module):
    """Mamba-2's output norm: of groups of channels, the gate silu(z) before the norm unless `norm_before_gate`."""

    def __init__(
        self,
        hidden_size: int,
        eps: float = 1e-5,
        group_size: int | None = None,
        norm_before_gate: bool = False,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.eps = eps
        self.groups = hidden_size // (group_size or hidden_size)
        self.norm_before_gate = norm_before_gate
        self.weight = nn.Parameter(torch.ones(hidden_size, device=device, dtype=dtype))

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        """x and z (..., D) -> (..., D)."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        gate = None if z is None else functional.silu(z.to(wide.dtype))
        if gate is not None and not self.norm_before_gate:
            wide = wide * gate
        y = _standard(wide, self.weight, None, self.eps, True, self.groups)
        return (y * gate if gate is not None and self.norm_before_gate else y).to(x.dtype)


class L2Norm(nn.Module):
    """`l2norm` as a module."""

    def __init__(self, eps: float = 1e-6, output_dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.eps = eps
        self.output_dtype = output_dtype

    def forward(self, x: Tensor) -> Tensor:
        return l2norm(x, self.eps, self.output_dtype)


def _known(activation: str) -> str:
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation is {activation!r}, expected one of {', '.join(ACTIVATIONS)}")
    return activation
