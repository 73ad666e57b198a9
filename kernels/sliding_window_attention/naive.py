"""Sliding window attention by a full masked softmax, at a cost of L^2: the definition."""

import torch
from torch import Tensor


def naive_sliding_window_attention(q: Tensor, k: Tensor, v: Tensor, window: int, scale: float) -> Tensor:
    """Position i reads the positions j with i - window < j <= i. Shapes as in `sliding_window_attention`."""
    length = q.shape[1]
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    position = torch.arange(length, device=q.device)
    distance = position[:, None] - position[None, :]
    hidden = (distance < 0) | (distance >= window)
    scores = (scale * q @ k.mT).masked_fill(hidden, -torch.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2)
