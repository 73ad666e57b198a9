"""Convolutions over time (`fla.modules.convolution`). Shapes: B batch, L length, D channels, W width."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from asiarch.kernels import short_convolution


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool | None = False,
    activation: str | None = None,
    backend: str | None = "triton",
    cu_seqlens: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Depthwise causal convolution of x (B, L, D) with weight (D, W), then silu where asked for, plus a residual.

    States are (N, D, W), the last W inputs of each of the N sequences, oldest first.
    """
    flat = x.flatten(2) if x.dim() > 3 else x
    width = weight.shape[-1]
    # the last W - 1 inputs are what the convolution needs; the oldest of a state of W is for other layouts
    before = None if initial_state is None else initial_state[..., 1:].mT.to(x.dtype)
    y, _ = short_convolution(
        flat,
        weight,
        bias,
        activation="silu" if activation in ("silu", "swish") else None,
        initial_state=before,
        cu_seqlens=cu_seqlens,
    )
    if residual is not None:
        y = y + residual
    state = _last_inputs(flat, width, initial_state, cu_seqlens) if output_final_state else None
    return y.view(x.shape), state


def _last_inputs(x: Tensor, width: int, before: Tensor | None, cu_seqlens: Tensor | None) -> Tensor:
    """The state after x: (N, D, W)."""
    parts = list(x) if cu_seqlens is None else list(x[0].split(cu_seqlens.diff().tolist()))
    first = x.new_zeros(len(parts), x.shape[-1], width) if before is None else before.to(x.dtype)
    return torch.stack(
        [torch.cat([old, new.mT], -1)[:, -width:] for old, new in zip(first, parts, strict=True)]
    )


def causal_conv1d_update(
    x: Tensor,
    cache: Tensor,
    residual: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    activation: str | None = None,
) -> tuple[Tensor, Tensor]:
    """One position: x (N, D), (N, 1, D) or (1, N, D). The cache (N, D, W) is changed in place."""
    if weight is None:
        raise ValueError("causal_conv1d_update needs a weight")
    new = x.reshape(-1, weight.shape[0])
    y, state = causal_conv1d(new.unsqueeze(1), weight, bias, None, cache, True, activation)
    assert state is not None
    cache.copy_(state)
    y = y.view(x.shape)
    return y if residual is None else y + residual, cache


class ShortConvolution(nn.Conv1d):
    """Depthwise causal convolution with an activation and a state; a `Conv1d` with weight (D, 1, W)."""

    def __init__(
        self,
        hidden_size: int,
        kernel_size: int,
        bias: bool = False,
        activation: str | None = "silu",
        backend: str | None = "triton",
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            hidden_size,
            hidden_size,
            kernel_size,
            padding=kernel_size - 1,
            groups=hidden_size,
            bias=bias,
            device=device,
            dtype=dtype,
        )
        if activation not in (None, "silu", "swish"):
            raise ValueError(f"activation is {activation!r}, expected None, silu or swish")
        self.hidden_size = hidden_size
        self.activation = activation
        self.backend = backend

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        residual: Tensor | None = None,
        mask: Tensor | None = None,
        cache: Tensor | None = None,
        output_final_state: bool = False,
        cu_seqlens: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """x (B, L, D) -> (B, L, D), and the state (N, D, W) where asked for.

        Args:
            mask: (B, L), zero where inputs are to be taken as zero.
            cache: the state before, (N, D, W).
            cu_seqlens: borders of the N sequences in a packed row; else N = B.
        """
        if mask is not None:
            x = x * mask.unsqueeze(-1)
        y, state = causal_conv1d(
            x,
            self.weight.squeeze(1),
            self.bias,
            residual,
            cache,
            output_final_state,
            self.activation,
            cu_seqlens=cu_seqlens,
        )
        return y, state

    def step(
        self,
        x: Tensor,
        residual: Tensor | None,
        cache: Tensor | None,
        output_final_state: bool = False,
        cu_seqlens: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """One position of each sequence; a cache that is given is changed in place."""
        if cache is None:
            sequences = x.shape[0] if cu_seqlens is None else len(cu_seqlens) - 1
            cache = x.new_zeros(sequences, self.hidden_size, self.kernel_size[0])
        y, cache = causal_conv1d_update(
            x, cache, residual, self.weight.squeeze(1), self.bias, self.activation
        )
        return y, cache if output_final_state else None

    @property
    def state_size(self) -> int:
        return self.hidden_size * self.kernel_size[0]


class LongConvolution(nn.Module):
    """Causal convolution with a learned filter (D, max_len) by FFT, plus the input."""

    def __init__(self, hidden_size: int, max_len: int, **kwargs: Any) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.filter = nn.Parameter(torch.randn(hidden_size, max_len))

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        length = x.shape[1]
        # as long as both together, so that nothing wraps around
        size = 2 * length
        spectrum = torch.fft.rfft(x.mT.to(self.filter.dtype), n=size) * torch.fft.rfft(
            self.filter[:, :length], n=size
        )
        return (torch.fft.irfft(spectrum, n=size)[..., :length].mT + x).to(x.dtype)


def token_shift(
    x: Tensor,
    cu_seqlens: Tensor | None = None,
    cache: Tensor | None = None,
    output_cache: bool = False,
    **kwargs: Any,
) -> Any:
    """x_{t-1} - x_t of each sequence, zero before its first; `cache` (N, D) is what came before."""
    shifted = functional.pad(x, (0, 0, 1, -1))
    starts = cu_seqlens[:-1].long() if cu_seqlens is not None else None
    rows = len(cu_seqlens) - 1 if cu_seqlens is not None else x.shape[0]
    before = x.new_zeros(rows, x.shape[-1]) if cache is None else cache.view(rows, x.shape[-1]).to(x.dtype)
    if starts is None:
        shifted = torch.cat([before.unsqueeze(1), shifted[:, 1:]], dim=1)
    else:
        shifted = shifted.index_put((torch.zeros_like(starts), starts), before)
    delta = shifted - x
    if not output_cache:
        return delta
    assert cu_seqlens is None or len(cu_seqlens)
    last = x[:, -1] if cu_seqlens is None else x[0, cu_seqlens[1:].long() - 1]
    return delta, last


class TokenShift:
    """`token_shift` by the name of its autograd function."""

    apply = staticmethod(token_shift)
