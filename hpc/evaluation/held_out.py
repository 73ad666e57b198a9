"""Loss on text that the model was not trained on."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import distributed, nn
from torch.nn import functional

from asiarch.hpc.data import document_boundaries
from asiarch.hpc.training.ranks import Ranks


@dataclass(frozen=True)
class HeldOut:
    """Mean cross-entropy in nats a token over `windows` windows, and its standard error.

    Tokens within a window depend on each other, so the error is over the windows' means: deviation / sqrt(windows).
    It is the error of this one model's loss on this kind of text, not that of a difference between two models, which
    see the same windows.
    """

    loss: float
    standard_error: float
    windows: int

    def bits_per_byte(self, bytes_per_token: float) -> float:
        """The loss in bits for each byte of text: comparable between tokenizers.

        Args:
            bytes_per_token: of the whole split that the windows come from.
        """
        return self.loss / math.log(2) / bytes_per_token


@torch.no_grad()
def held_out_loss(
    model: nn.Module,
    windows: tuple[np.ndarray, np.ndarray],
    batch_size: int,
    ranks: Ranks,
    document_end: int | None = None,
) -> HeldOut:
    """The loss over fixed windows, which the ranks share. Collective.

    Args:
        model: called as model(inputs, cu_seqlens=), returns logits (batch, length, vocabulary).
        windows: inputs and targets, int64, (windows, length).
        batch_size: windows in one forward pass.
        document_end: the end token, where the model is told document boundaries.
    """
    device = next(model.parameters()).device
    inputs, targets = windows
    # every rank makes as many forward passes, since a partitioned model needs them all: the last may repeat windows
    per_rank = -(-len(inputs) // ranks.world)
    mine = np.minimum(np.arange(per_rank) + ranks.rank * per_rank, len(inputs) - 1)
    losses = np.empty(per_rank)
    model.eval()
    for start in range(0, per_rank, batch_size):
        part = mine[start : start + batch_size]
        boundaries = {}
        if document_end is not None:
            ends = torch.from_numpy(document_boundaries(inputs[part], document_end))
            boundaries = {"cu_seqlens": ends.to(device)}
        logits = model(torch.from_numpy(inputs[part]).to(device), **boundaries)
        wanted = torch.from_numpy(targets[part]).to(device)
        each = functional.cross_entropy(logits.flatten(0, 1).float(), wanted.flatten(), reduction="none")
        losses[start : start + batch_size] = each.view(wanted.shape).double().mean(dim=1).cpu()
    model.train()
    shares = [losses] * ranks.world
    if ranks.world > 1:
        distributed.all_gather_object(shares, losses)
    whole = np.concatenate(shares)[: len(inputs)]
    error = whole.std(ddof=1) / math.sqrt(len(whole)) if len(whole) > 1 else 0.0
    return HeldOut(float(whole.mean()), float(error), len(whole))
