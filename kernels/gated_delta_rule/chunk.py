"""The (gated) delta rule over chunks, in the WY form: all chunks at once but for a short recurrence.

Shapes: N chunks, B batch, H heads, C positions in a chunk, K key dimension, V value dimension.
"""

import torch
from torch import Tensor

from asiarch.kernels.chunking import fitting_chunk_size, from_chunks, pairwise_decay, start_state, to_chunks
from asiarch.kernels.gated_delta_rule.inverse import unit_lower_inverse
from asiarch.kernels.shapes import compute_dtype


def chunk_gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_decay: Tensor | None,
    scale: float,
    initial_state: Tensor | None,
    chunk_size: int,
) -> tuple[Tensor, Tensor]:
    """The same function as `naive_gated_delta_rule`, up to rounding, for any length; no decay if None."""
    dtype = compute_dtype(q, k, v)
    batch, length, heads, key_dim = q.shape
    size = fitting_chunk_size(chunk_size, length)
    out_dtype, value_dim = v.dtype, v.shape[-1]
    q, k, v = (to_chunks(x.to(dtype), size) for x in (q * scale, k, v))
    beta = to_chunks(beta.to(dtype), size).unsqueeze(-1)
    k_beta = k * beta
    if log_decay is None:
        reads, overlaps = (q @ k.mT).tril(), (k_beta @ k.mT).tril(-1)
        k_erase, k_write, kept = k_beta, k, None
    else:
        sums = to_chunks(log_decay.to(dtype), size).cumsum(2)
        decay = pairwise_decay(sums)
        reads, overlaps = q @ k.mT * decay, (k_beta @ k.mT * decay).tril(-1)
        sums = sums.unsqueeze(-1)
        total = sums[:, :, -1:]
        from_start = sums.exp()
        q, k_erase, k_write, kept = q * from_start, k_beta * from_start, k * (total - sums).exp(), total.exp()
    # Each write depends on the earlier ones of its chunk: (I + overlaps) writes = beta (v - k^T S)
    inverse = unit_lower_inverse(overlaps)
    state = start_state(initial_state, v, key_dim, value_dim)
    before, writes, state = _over_chunks(inverse @ k_erase, inverse @ (v * beta), k_write, kept, state)
    output = q @ before + reads @ writes
    return from_chunks(output, batch, length).to(out_dtype), state.view(batch, heads, key_dim, value_dim)


def _over_chunks(
    erased: Tensor, written: Tensor, k_write: Tensor, kept: Tensor | None, state: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Carry the state over the chunks.

    erased, k_write (N, B*H, C, K), written (N, B*H, C, V), kept (N, B*H, 1, 1) or None, state (B*H, K, V) ->
    the state before each chunk (N, B*H, K, V), what each position writes (N, B*H, C, V), the last state.
    """
    states, writes = [], []
    for n, (erase, write, key) in enumerate(
        zip(erased.unbind(), written.unbind(), k_write.mT.unbind(), strict=True)
    ):
        states.append(state)
        writes.append(torch.baddbmm(write, erase, state, alpha=-1))
        state = torch.baddbmm(state if kept is None else state * kept[n], key, writes[-1])
    return torch.stack(states), torch.stack(writes), state
