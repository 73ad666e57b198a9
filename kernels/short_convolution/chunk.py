"""The short causal convolution as a sum of a few shifted products over the whole sequence."""

import torch
from torch import Tensor

from asiarch.kernels.documents import document_of
from asiarch.kernels.shapes import compute_dtype


def chunk_short_convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, initial_state: Tensor | None, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The same function as `naive_short_convolution`, up to rounding."""
    dtype = compute_dtype(x, weight)
    batch, length, channels = x.shape
    width = weight.shape[1]
    rows = batch if cu_seqlens is None else len(cu_seqlens) - 1
    past = x.new_zeros(rows, width - 1, channels) if initial_state is None else initial_state.to(x.dtype)
    if cu_seqlens is None:
        padded = torch.cat([past, x], dim=1)
        taps = [padded[:, i : i + length] for i in range(width)]
        state = padded[:, length:]
    else:
        pool = torch.cat([past.flatten(0, 1), x[0]])
        sources = tap_sources(cu_seqlens, length, width)
        taps = [pool[source].unsqueeze(0) for source in sources.unbind(1)]
        state = pool[state_sources(cu_seqlens, width)]
    weight = weight.to(dtype)
    y = weight[:, 0] * taps[0].to(dtype)
    for i in range(1, width):
        y = torch.addcmul(y, weight[:, i], taps[i].to(dtype))
    return y if bias is None else y + bias.to(dtype), state


def tap_sources(cu_seqlens: Tensor, length: int, width: int) -> Tensor:
    """What each tap of each position reads, (L, width): rows of the states of all documents, then all positions."""
    document = document_of(cu_seqlens, length)
    position = torch.arange(length, device=cu_seqlens.device)
    starts = cu_seqlens.long()[document]
    back = torch.arange(width - 1, -1, -1, device=cu_seqlens.device)
    return _pool_row(cu_seqlens, document[:, None], (position - starts)[:, None] - back, width)


def state_sources(cu_seqlens: Tensor, width: int) -> Tensor:
    """The last width - 1 inputs of each document, (documents, width - 1), as rows of the same pool."""
    document = torch.arange(len(cu_seqlens) - 1, device=cu_seqlens.device)
    back = torch.arange(width - 1, 0, -1, device=cu_seqlens.device)
    return _pool_row(cu_seqlens, document[:, None], cu_seqlens.long().diff()[:, None] - back, width)


def _pool_row(cu_seqlens: Tensor, document: Tensor, within: Tensor, width: int) -> Tensor:
    """The row of position `within` of a document; negative positions are in its state."""
    states = (len(cu_seqlens) - 1) * (width - 1)
    in_state = (document + 1) * (width - 1) + within
    return torch.where(within < 0, in_state, states + cu_seqlens.long()[document] + within)
