"""Cutting sequences into chunks, in the one layout that all chunkwise operators share.

Shapes: B batch, L length, H heads, N chunks, C positions in a chunk, K key dimension, V value dimension.
Chunks come first, (N, B*H, C, ...), so that the recurrence over chunks takes contiguous slices.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from asiarch.kernels.documents import ChunkTable, chunk_table, document_of


def expect_chunk_size(chunk_size: int) -> None:
    """Raise ValueError unless `chunk_size` is a power of two."""
    if chunk_size < 1 or chunk_size & (chunk_size - 1):
        raise ValueError(f"chunk_size is {chunk_size}, expected a power of two such as 32")


def fitting_chunk_size(chunk_size: int, length: int) -> int:
    """`chunk_size`, a power of two, shrunk where the sequence is shorter."""
    return min(chunk_size, 1 << (length - 1).bit_length())


@dataclass(frozen=True)
class Chunks:
    """How a batch, or a row of documents, is cut into chunks of `size` positions."""

    size: int
    batch: int
    length: int
    table: ChunkTable | None  # for documents
    source: (
        Tensor | None
    )  # (N * C,) for documents: the position that each place of a chunk takes, `length` if none
    place: Tensor | None  # (L,) for documents: the place that each position takes

    @classmethod
    def cut(cls, batch: int, length: int, size: int, cu_seqlens: Tensor | None) -> "Chunks":
        """Chunks of `size` for a batch of sequences, or for documents in one row."""
        if cu_seqlens is None:
            return cls(size, batch, length, None, None, None)
        table = chunk_table(cu_seqlens, length, size)
        source = table.start.unsqueeze(1) + torch.arange(size, device=cu_seqlens.device)
        source = torch.where(source < table.stop.unsqueeze(1), source, length)
        document = document_of(cu_seqlens, length)
        within = torch.arange(length, device=cu_seqlens.device) - cu_seqlens.long()[document]
        return cls(size, batch, length, table, source.flatten(), table.first[document] * size + within)

    def split(self, x: Tensor) -> Tensor:
        """(B, L, H) or (B, L, H, D) -> (N, B*H, C) or (N, B*H, C, D), the ends filled with zeros.

        Zeros are neutral in every operator: k = v = 0 writes nothing, log decay 0 forgets nothing.
        """
        heads, *rest = x.shape[2:]
        if self.source is not None:
            x = functional.pad(x[0], [0, 0] * (1 + len(rest)) + [0, 1])[self.source]
            return x.unflatten(0, (-1, self.size)).transpose(1, 2).contiguous()
        missing = -self.length % self.size
        if missing:
            x = functional.pad(x, [0, 0] * (1 + len(rest)) + [0, missing])
        x = x.view(self.batch, -1, self.size, heads, *rest)
        x = x.permute(1, 0, 3, 2, *range(4, x.dim()))
        return x.reshape(-1, self.batch * heads, self.size, *rest)

    def join(self, x: Tensor) -> Tensor:
        """(N, B*H, C, V) -> (B, L, H, V): the inverse of `split`."""
        if self.place is not None:
            return x.transpose(1, 2).flatten(0, 1)[self.place].unsqueeze(0)
        x = x.unflatten(1, (self.batch, -1)).permute(1, 0, 3, 2, 4)
        return x.flatten(1, 2)[:, : self.length]
