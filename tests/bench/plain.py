"""A training loop of PyTorch alone, to measure against."""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn


def train_plainly(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Callable[[int], tuple[np.ndarray, np.ndarray]],
    rate: Callable[[int], float],
    steps: range,
) -> None:
    """AdamW's steps with the learning rate of each step and gradients clipped to a norm of 1."""
    for step in steps:
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        inputs, targets = (torch.from_numpy(part) for part in batch(step))
        loss = model(inputs, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
