"""Products of all pairs of positions of a chunk, each under the decay that lies between the two.

Shapes: N chunks, B batch, H heads, C positions in a chunk, K key dimension.
"""

import torch
from torch import Tensor

# Pairs of positions this close are decayed one by one, channel by channel; farther pairs as matrix products.
CLOSE = 4


def pair_products(a: Tensor, b: Tensor, sums: Tensor | None) -> Tensor:
    """sum_c a_ic b_jc exp(sums_ic - sums_jc) for j <= i, and 0 for j > i: (N, B*H, C, C).

    a, b (N, B*H, C, K); `sums`, the running sum of the log decay, (N, B*H, C), (N, B*H, C, K), or None.
    """
    if sums is None:
        return (a @ b.mT).tril()
    if sums.dim() == 3:
        return a @ b.mT * pairwise_decay(sums)
    return _by_channel(a, b, sums)


def pairwise_decay(sums: Tensor) -> Tensor:
    """Decay from position j to position i of a chunk, (..., C) -> (..., C, C); zero for j > i.

    Taken as exp of a difference that is <= 0 wherever it is kept, so that it cannot overflow.
    """
    size = sums.shape[-1]
    future = torch.ones(size, size, dtype=torch.bool, device=sums.device).triu(1)
    difference = sums.unsqueeze(-1) - sums.unsqueeze(-2)
    return difference.masked_fill(future, -torch.inf).exp()


def _by_channel(a: Tensor, b: Tensor, sums: Tensor) -> Tensor:
    """The products where each key channel has its own decay.

    The factor exp(sums_i - sums_j) cannot be split into one for i and one for j without overflow, unless at a
    point between the two. So the lower triangle is cut into squares, halving towards the diagonal: the later
    half of a block meets the earlier half, split at the border. Both exponents are then <= 0.
    """
    size = a.shape[2]
    span = min(CLOSE, size)
    products = a.new_zeros(*a.shape[:2], size, size)
    near = [x.unflatten(2, (-1, span)) for x in (a, b, sums)]
    _blocks_on_diagonal(products, span)[:] = _close_pairs(*near).movedim(2, -1)
    while span < size:
        a_late, sums_late = (x.unflatten(2, (-1, 2, span))[:, :, :, 1] for x in (a, sums))
        b_early, sums_early = (x.unflatten(2, (-1, 2, span))[:, :, :, 0] for x in (b, sums))
        border = sums_early[..., -1:, :]
        far = (a_late * (sums_late - border).exp()) @ (b_early * (border - sums_early).exp()).mT
        _blocks_on_diagonal(products, 2 * span)[..., span:, :span, :] = far.movedim(2, -1)
        span *= 2
    return products


def _blocks_on_diagonal(x: Tensor, span: int) -> Tensor:
    """A view of the blocks on the diagonal, (N, B*H, C, C) -> (N, B*H, span, span, C / span)."""
    return x.unflatten(3, (-1, span)).unflatten(2, (-1, span)).diagonal(dim1=2, dim2=4)


def _close_pairs(a: Tensor, b: Tensor, sums: Tensor) -> Tensor:
    """Of one small block of positions, (..., block, K) -> (..., block, block), pair by pair."""
    return (a.mT.unsqueeze(-1) * b.mT.unsqueeze(-2) * pairwise_decay(sums.mT)).sum(-3)
