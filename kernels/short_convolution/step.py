"""One position of the short convolution: decoding."""

import torch
from torch import Tensor

from asiarch.kernels.shapes import compute_dtype


def step_short_convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The same function as `naive_short_convolution` for length 1: one window, multiplied and summed."""
    dtype = compute_dtype(x, weight)
    past = x.new_zeros(len(x), weight.shape[1] - 1, x.shape[2]) if initial_state is None else initial_state
    window = torch.cat([past.to(x.dtype), x], dim=1)
    y = (window.to(dtype) * weight.mT.to(dtype)).sum(1, keepdim=True)
    return y if bias is None else y + bias.to(dtype), window[:, 1:]
