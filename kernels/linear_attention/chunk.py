"""Linear attention over chunks: matrix products inside a chunk, a short recurrence over chunk states.

Shapes: N chunks, B batch, H heads, C positions in a chunk, K key dimension, V value dimension.
"""

import torch
from torch import Tensor
from torch.nn import functional

from asiarch.kernels.chunking import fitting_chunk_size, from_chunks, pairwise_decay, start_state, to_chunks
from asiarch.kernels.shapes import compute_dtype

# Pairs of positions this close are decayed one by one, channel by channel; farther pairs as matrix products.
CLOSE = 4


def chunk_linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    scale: float,
    initial_state: Tensor | None,
    chunk_size: int,
) -> tuple[Tensor, Tensor]:
    """The same function as `naive_linear_attention`, up to rounding, for any length."""
    dtype = compute_dtype(q, k, v)
    batch, length, heads, key_dim = q.shape
    size = fitting_chunk_size(chunk_size, length)
    out_dtype, value_dim = v.dtype, v.shape[-1]
    q, k, v = (to_chunks(x.to(dtype), size) for x in (q * scale, k, v))
    state = start_state(initial_state, v, key_dim, value_dim)
    if log_decay is None:
        output = (q @ k.mT).tril() @ v
        states = torch.cat([state.unsqueeze(0), k.mT @ v]).cumsum(0)
        output = output + q @ states[:-1]
        state = states[-1]
    else:
        sums = to_chunks(log_decay.to(dtype), size).cumsum(2)
        if log_decay.dim() == 3:
            output = (q @ k.mT * pairwise_decay(sums)) @ v
            sums = sums.unsqueeze(-1)
        else:
            output = _within_chunk_by_channel(q, k, v, sums)
        total = sums[:, :, -1:]
        written = (k * (total - sums).exp()).mT @ v
        before: list[Tensor] = []
        for kept, new in zip(total.exp().mT.unbind(), written.unbind(), strict=True):
            before.append(state)
            state = torch.addcmul(new, kept, state)
        output = output + (q * sums.exp()) @ torch.stack(before)
    return from_chunks(output, batch, length).to(out_dtype), state.view(batch, heads, key_dim, value_dim)


def _within_chunk_by_channel(q: Tensor, k: Tensor, v: Tensor, sums: Tensor) -> Tensor:
    """What each position reads of its own chunk when each key channel has its own decay.

    q, k, sums (N, B*H, C, K), v (N, B*H, C, V) -> (N, B*H, C, V). `sums` is the running sum of the log decay.
    The factor exp(sums_i - sums_j) cannot be split into one for i and one for j without overflow, unless at a
    point between the two. So the lower triangle is cut into squares, halving towards the diagonal: the later
    half of a block reads the earlier half, split at the border. Both exponents are then <= 0.
    """
    size = q.shape[2]
    span = min(CLOSE, size)
    output = _close_pairs(*(x.unflatten(2, (-1, span)) for x in (q, k, v, sums))).flatten(2, 3)
    while span < size:
        q_late, sums_late = (x.unflatten(2, (-1, 2, span))[:, :, :, 1] for x in (q, sums))
        k_early, v_early, sums_early = (x.unflatten(2, (-1, 2, span))[:, :, :, 0] for x in (k, v, sums))
        border = sums_early[..., -1:, :]
        scores = (q_late * (sums_late - border).exp()) @ (k_early * (border - sums_early).exp()).mT
        read = (scores @ v_early).unsqueeze(3)
        output = output + functional.pad(read, [0, 0, 0, 0, 1, 0]).flatten(2, 4)
        span *= 2
    return output


def _close_pairs(q: Tensor, k: Tensor, v: Tensor, sums: Tensor) -> Tensor:
    """Read of one small block of positions, (..., block, K) and (..., block, V), pair by pair."""
    decay = pairwise_decay(sums.mT)
    scores = (q.mT.unsqueeze(-1) * k.mT.unsqueeze(-2) * decay).sum(-3)
    return scores @ v
