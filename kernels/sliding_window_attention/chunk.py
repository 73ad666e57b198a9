"""Sliding window attention in blocks of one window: each block reads itself and the block before."""

import torch
from torch import Tensor
from torch.nn import functional


def chunk_sliding_window_attention(
    q: Tensor, k: Tensor, v: Tensor, window: int, scale: float, document: Tensor | None
) -> Tensor:
    """The same function as `naive_sliding_window_attention`, up to rounding, at a cost of L * window.

    document: (L,), the document of each position, where the row holds several.
    """
    batch, length, heads, _ = q.shape
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    if length <= window and document is None:
        output = functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
        return output.transpose(1, 2)
    missing = -length % window
    queries = functional.pad(q, (0, 0, 0, missing)).unflatten(2, (-1, window)).flatten(0, 1)
    keys, values = (_with_block_before(functional.pad(x, (0, 0, window, missing)), window) for x in (k, v))
    # Shapes: queries (B*H, N, window, K), keys (B*H, N, 2 * window, K). The first block has no block before.
    row = torch.arange(window, device=q.device)[:, None]
    column = torch.arange(2 * window, device=q.device)[None, :]
    visible = (column > row) & (column <= row + window)
    visible = visible.repeat(queries.shape[1], 1, 1)
    visible[0, :, :window] = False
    if document is not None:
        # what is padded is a document of its own, and so still reads itself
        padded = functional.pad(document, (window, missing), value=-1).unflatten(0, (-1, window))
        visible &= padded[1:, :, None] == torch.cat([padded[:-1], padded[1:]], dim=1)[:, None, :]
    output = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=visible, scale=scale)
    return output.reshape(batch, heads, -1, v.shape[-1])[:, :, :length].transpose(1, 2)


def _with_block_before(x: Tensor, window: int) -> Tensor:
    """(B, H, (N + 1) * window, D) -> (B*H, N, 2 * window, D): each block behind the one before it."""
    blocks = x.unflatten(2, (-1, window)).flatten(0, 1)
    return torch.cat([blocks[:, :-1], blocks[:, 1:]], dim=2)
