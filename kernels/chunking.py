"""Cutting sequences into chunks, in the one layout that all chunkwise operators share.

Shapes: B batch, L length, H heads, N chunks, C positions in a chunk, K key dimension, V value dimension.
Chunks come first, (N, B*H, C, ...), so that the recurrence over chunks takes contiguous slices.
"""

import torch
from torch import Tensor
from torch.nn import functional


def fitting_chunk_size(chunk_size: int, length: int) -> int:
    """`chunk_size`, shrunk where the sequence is shorter. ValueError if it is not a power of two."""
    if chunk_size < 1 or chunk_size & (chunk_size - 1):
        raise ValueError(f"chunk_size is {chunk_size}, expected a power of two such as 32")
    return min(chunk_size, 1 << (length - 1).bit_length())


def to_chunks(x: Tensor, chunk_size: int) -> Tensor:
    """(B, L, H) or (B, L, H, D) -> (N, B*H, C) or (N, B*H, C, D), the end filled with zeros.

    Zeros are neutral in every operator: k = v = 0 writes nothing, log decay 0 forgets nothing.
    """
    batch, length, heads, *rest = x.shape
    missing = -length % chunk_size
    if missing:
        x = functional.pad(x, [0, 0] * (1 + len(rest)) + [0, missing])
    x = x.view(batch, -1, chunk_size, heads, *rest)
    x = x.permute(1, 0, 3, 2, *range(4, x.dim()))
    return x.reshape(-1, batch * heads, chunk_size, *rest)


def from_chunks(x: Tensor, batch: int, length: int) -> Tensor:
    """(N, B*H, C, V) -> (B, L, H, V): the inverse of `to_chunks`."""
    chunks, _, chunk_size, dim = x.shape
    x = x.view(chunks, batch, -1, chunk_size, dim).permute(1, 0, 3, 2, 4)
    return x.reshape(batch, chunks * chunk_size, -1, dim)[:, :length]


def start_state(initial_state: Tensor | None, like: Tensor, key_dim: int, value_dim: int) -> Tensor:
    """The state before the first chunk, (B*H, K, V), with the dtype and device of `like` (N, B*H, ...)."""
    if initial_state is None:
        return like.new_zeros(like.shape[1], key_dim, value_dim)
    return initial_state.to(like.dtype).reshape(-1, key_dim, value_dim)


def pairwise_decay(log_decay_sums: Tensor) -> Tensor:
    """Decay from position j to position i of a chunk, (..., C) -> (..., C, C); zero for j > i.

    Taken as exp of a difference that is <= 0 wherever it is kept, so that it cannot overflow.
    """
    size = log_decay_sums.shape[-1]
    future = torch.ones(size, size, dtype=torch.bool, device=log_decay_sums.device).triu(1)
    difference = log_decay_sums.unsqueeze(-1) - log_decay_sums.unsqueeze(-2)
    return difference.masked_fill(future, -torch.inf).exp()
