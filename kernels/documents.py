"""Variable-length batches: documents laid end to end in one row, and their borders `cu_seqlens`.

`cu_seqlens` (documents + 1,) int32 or int64 holds where each document starts and, last, the length of the row:
[0, 5, 5, 12] are documents of 5, 0 and 7 positions. Everything here is made of tensor operations whose shapes
follow from the arguments' shapes alone, so it neither waits for a device nor breaks a compiled graph.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class ChunkTable(NamedTuple):
    """The chunks that documents are cut into: each inside of one document, each document with at least one.

    The number of rows N is the most that documents of this total length can need; rows that are not needed stand
    at the end, hold no position, and belong to the last document.
    """

    start: Tensor  # (N,) the first position of each chunk in the row
    stop: Tensor  # (N,) one past its last position; at most `start` where it holds none
    document: Tensor  # (N,) the document it belongs to
    opens: Tensor  # (N,) bool, whether it is its document's first
    first: Tensor  # (documents,) each document's first chunk
    last: Tensor  # (documents,) each document's last chunk


def chunk_table(cu_seqlens: Tensor, length: int, size: int) -> ChunkTable:
    """Cut documents of `length` positions in all into chunks of `size`, without a look at their lengths."""
    borders = cu_seqlens.long()
    counts = ((borders.diff() + size - 1) // size).clamp(min=1)
    ends = counts.cumsum(0)
    first = ends - counts
    chunk = torch.arange(length // size + counts.shape[0], device=borders.device)
    document = torch.searchsorted(ends, chunk, right=True).clamp(max=counts.shape[0] - 1)
    within = chunk - first[document]
    start = borders[document] + within * size
    stop = torch.minimum(borders[document + 1], start + size)
    return ChunkTable(start, stop, document, within == 0, first, ends - 1)


def batch_table(batch: int, length: int, size: int, device: torch.device) -> ChunkTable:
    """The same for `batch` sequences of `length` positions each, laid end to end; no row is in excess."""
    each = -(-length // size)
    chunk = torch.arange(batch * each, device=device)
    document, within = chunk // each, chunk % each
    start = document * length + within * size
    stop = torch.minimum((document + 1) * length, start + size)
    first = torch.arange(batch, device=device) * each
    return ChunkTable(start, stop, document, within == 0, first, first + each - 1)


def document_of(cu_seqlens: Tensor, length: int) -> Tensor:
    """The document that each position belongs to, (length,) int64."""
    position = torch.arange(length, device=cu_seqlens.device)
    return torch.searchsorted(cu_seqlens.long(), position, right=True) - 1


def expect_documents(cu_seqlens: Tensor, batch: int, length: int) -> int:
    """Check `cu_seqlens` against a row of `length` positions; the number of documents.

    The values are looked at on the CPU only: elsewhere that would wait for the device.
    """
    if batch != 1:
        raise ValueError(f"with cu_seqlens the documents lie in one row: the batch is {batch}, expected 1")
    if cu_seqlens.dim() != 1 or len(cu_seqlens) < 2 or cu_seqlens.dtype not in (torch.int32, torch.int64):
        raise ValueError(
            f"cu_seqlens has shape {tuple(cu_seqlens.shape)} and dtype {cu_seqlens.dtype}, "
            "expected (documents + 1,) of int32 or int64"
        )
    if cu_seqlens.device.type == "cpu" and not torch.compiler.is_compiling():
        borders = cu_seqlens.tolist()
        if borders[0] != 0 or borders[-1] != length or borders != sorted(borders):
            raise ValueError(f"cu_seqlens {borders} does not rise from 0 to the length {length}")
    return len(cu_seqlens) - 1


def document_by_document(
    operator: Callable[..., tuple[Tensor, Tensor]],
    cu_seqlens: Tensor,
    initial_state: Tensor | None,
    *tensors: Tensor,
) -> tuple[Tensor, Tensor]:
    """What `cu_seqlens` means: the operator on each document by itself; outputs in one row, final states stacked.

    `operator(state, *parts)` gives an output (1, length, ...) and a state (1, ...). Documents must not be empty.
    """
    outputs, states = [], []
    borders = cu_seqlens.tolist()
    for document, (start, stop) in enumerate(itertools.pairwise(borders)):
        state = None if initial_state is None else initial_state[document : document + 1]
        output, last = operator(state, *(x[:, start:stop] for x in tensors))
        outputs.append(output)
        states.append(last)
    return torch.cat(outputs, dim=1), torch.cat(states)
