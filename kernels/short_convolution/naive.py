"""The short causal convolution as its sum, one position and one tap at a time: the definition."""

import torch
from torch import Tensor


def naive_short_convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """y_t = bias + sum_i weight[:, i] x_{t - width + 1 + i}. Shapes as in `short_convolution`."""
    batch, length, channels = x.shape
    width = weight.shape[1]
    past = x.new_zeros(batch, width - 1, channels) if initial_state is None else initial_state
    outputs = []
    for t in range(length):
        window = torch.cat([past, x[:, t : t + 1]], dim=1)
        y = torch.stack([weight[:, i] * window[:, i] for i in range(width)]).sum(0)
        outputs.append(y if bias is None else y + bias)
        past = window[:, 1:]
    return torch.stack(outputs, dim=1), past
