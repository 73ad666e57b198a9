"""The recurrence over chunks in PyTorch: matrix products inside a chunk, a short recurrence over chunk states.

Shapes: N chunks, B batch, H heads, C positions in a chunk, K key dimension, V value dimension.
"""

import torch
from torch import Tensor

from asiarch.kernels.chunking import Chunks, fitting_chunk_size
from asiarch.kernels.recurrence.inverse import unit_lower_inverse
from asiarch.kernels.recurrence.pairs import pair_products
from asiarch.kernels.shapes import compute_dtype


def chunk_recurrence(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor | None,
    log_decay: Tensor | None,
    scale: float,
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    chunk_size: int,
) -> tuple[Tensor, Tensor]:
    """The recurrence of `recurrence`, up to rounding, for any length."""
    dtype = compute_dtype(q, k, v)
    batch, length, heads, key_dim = q.shape
    out_dtype, value_dim = v.dtype, v.shape[-1]
    chunks = Chunks.cut(batch, length, fitting_chunk_size(chunk_size, length), cu_seqlens)
    q, k, v = (chunks.split(x.to(dtype)) for x in (q * scale, k, v))
    k_erase, k_write, kept, sums = k, k, None, None
    reads_from = q
    if log_decay is not None:
        sums = chunks.split(log_decay.to(dtype)).cumsum(2)
        by_channel = sums if sums.dim() == 4 else sums.unsqueeze(-1)
        total, from_start = by_channel[:, :, -1:], by_channel.exp()
        reads_from, k_erase = q * from_start, k * from_start
        k_write, kept = k * (total - by_channel).exp(), total.exp().mT
    start = _start_states(chunks, initial_state, v, key_dim, value_dim)
    if beta is None:
        before, state = _added(k_write.mT @ v, kept, start, chunks)
        writes = v
    else:
        rates = chunks.split(beta.to(dtype)).unsqueeze(-1)
        # Each write depends on the earlier ones of its chunk: (I + overlaps) writes = beta (v - k^T S)
        inverse = unit_lower_inverse(pair_products(k * rates, k, sums).tril(-1))
        before, writes, state = _replaced(
            inverse @ (k_erase * rates), inverse @ (v * rates), k_write, kept, start, chunks
        )
    output = reads_from @ before + pair_products(q, k, sums) @ writes
    return chunks.join(output).to(out_dtype), state.view(-1, heads, key_dim, value_dim)


def _start_states(
    chunks: Chunks, initial_state: Tensor | None, like: Tensor, key_dim: int, value_dim: int
) -> Tensor:
    """The states that sequences start with, (documents or 1, B*H, K, V), in the dtype of `like` (N, B*H, ...)."""
    rows = 1 if chunks.table is None else len(chunks.table.last)
    if initial_state is None:
        return like.new_zeros(rows, like.shape[1], key_dim, value_dim)
    return initial_state.to(like.dtype).reshape(rows, -1, key_dim, value_dim)


def _entering(n: int, state: Tensor, start: Tensor, chunks: Chunks) -> Tensor:
    """The state before chunk n, where `state` is the one after the chunk before it."""
    if chunks.table is None:
        return state
    # a slice and not an integer of a tensor: torch.compile cannot follow the latter
    own_start = start[chunks.table.document[n : n + 1]].squeeze(0)
    return torch.where(chunks.table.opens[n], own_start, state)


def _final(after: list[Tensor], chunks: Chunks) -> Tensor:
    """The state after each sequence, of the states after each chunk."""
    return after[-1] if chunks.table is None else torch.stack(after)[chunks.table.last]


def _added(written: Tensor, kept: Tensor | None, start: Tensor, chunks: Chunks) -> tuple[Tensor, Tensor]:
    """Carry a state that adds over the chunks.

    written (N, B*H, K, V), kept (N, B*H, K or 1, 1) or None -> the state before each chunk (N, B*H, K, V), the last.
    """
    if kept is None and chunks.table is None:
        states = torch.cat([start, written]).cumsum(0)
        return states[:-1], states[-1]
    before, after = [], []
    state = start[0]
    for n, new in enumerate(written.unbind()):
        before.append(_entering(n, state, start, chunks))
        state = before[-1] + new if kept is None else torch.addcmul(new, kept[n], before[-1])
        after.append(state)
    return torch.stack(before), _final(after, chunks)


def _replaced(
    erased: Tensor, written: Tensor, k_write: Tensor, kept: Tensor | None, start: Tensor, chunks: Chunks
) -> tuple[Tensor, Tensor, Tensor]:
    """Carry a state that replaces over the chunks.

    erased, k_write (N, B*H, C, K), written (N, B*H, C, V), kept (N, B*H, K or 1, 1) or None ->
    the state before each chunk (N, B*H, K, V), what each position writes (N, B*H, C, V), the last state.
    """
    before, writes, after = [], [], []
    state = start[0]
    for n, (erase, write, key) in enumerate(
        zip(erased.unbind(), written.unbind(), k_write.mT.unbind(), strict=True)
    ):
        state = _entering(n, state, start, chunks)
        before.append(state)
        writes.append(torch.baddbmm(write, erase, state, alpha=-1))
        state = torch.baddbmm(state if kept is None else state * kept[n], key, writes[-1])
        after.append(state)
    return torch.stack(before), torch.stack(writes), _final(after, chunks)
