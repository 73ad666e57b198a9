"""How the Triton kernels of the cross-entropy are launched. They run inside the custom operators of `chunk.py`."""

import torch
import triton
from torch import Tensor

from asiarch.kernels.cross_entropy.triton_kernels import loss_kernel, slope_kernel

WIDEST_BLOCK = 4096  # logits at a time
WARPS = 8


def block(vocabulary: int) -> int:
    return min(triton.next_power_of_2(vocabulary), WIDEST_BLOCK)


def triton_token_losses(logits: Tensor, targets: Tensor, ignore_index: int) -> tuple[Tensor, Tensor]:
    """As `token_losses`."""
    tokens, vocabulary = logits.shape
    losses, normalizers = (logits.new_empty(tokens, dtype=torch.float32) for _ in range(2))
    loss_kernel[(tokens,)](
        logits, targets.contiguous(), losses, normalizers, ignore_index, vocabulary, block(vocabulary),
        num_warps=WARPS,
    )  # fmt: skip
    return losses, normalizers


def triton_logit_slopes(
    logits: Tensor, targets: Tensor, normalizers: Tensor, gradient: Tensor, ignore_index: int
) -> Tensor:
    """As `logit_slopes`, in place of the logits."""
    tokens, vocabulary = logits.shape
    size = block(vocabulary)
    slope_kernel[(tokens, triton.cdiv(vocabulary, size))](
        logits, targets.contiguous(), normalizers, gradient.contiguous(), ignore_index, vocabulary, size,
        num_warps=WARPS,
    )  # fmt: skip
    return logits
