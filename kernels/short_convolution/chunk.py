"""The short causal convolution as a sum of a few shifted products over the whole sequence."""

import torch
from torch import Tensor


def chunk_short_convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The same function as `naive_short_convolution`, up to rounding."""
    batch, length, channels = x.shape
    width = weight.shape[1]
    past = x.new_zeros(batch, width - 1, channels) if initial_state is None else initial_state.to(x.dtype)
    padded = torch.cat([past, x], dim=1)
    y = weight[:, 0] * padded[:, :length]
    for i in range(1, width):
        y = torch.addcmul(y, weight[:, i], padded[:, i : i + length])
    return y if bias is None else y + bias, padded[:, length:]
