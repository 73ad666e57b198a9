"""Loss on text that the model was not trained on."""

import numpy as np
import torch
from torch import nn


@torch.no_grad()
def held_out_loss(
    model: nn.Module, windows: tuple[np.ndarray, np.ndarray], batch_size: int
) -> tuple[float, int]:
    """Mean cross-entropy (nats a token) over fixed windows, and the number of tokens it was taken over.

    Args:
        model: called as model(inputs, targets), returns the mean loss of the batch.
        windows: inputs and targets, int64, (windows, length).
        batch_size: windows in one forward pass.
    """
    device = next(model.parameters()).device
    inputs, targets = windows
    total, tokens = 0.0, 0
    model.eval()
    for start in range(0, len(inputs), batch_size):
        part_inputs = torch.from_numpy(inputs[start : start + batch_size]).to(device)
        part_targets = torch.from_numpy(targets[start : start + batch_size]).to(device)
        total += float(model(part_inputs, part_targets)) * part_targets.numel()
        tokens += part_targets.numel()
    model.train()
    return total / tokens, tokens
