"""What every operator asks of its arguments, with errors that name the tensor and its right shape."""

import torch
from torch import Tensor


def expect_shape(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless `tensor` has exactly `shape`."""
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {shape}")


def expect_qkv(
    q: Tensor, k: Tensor, v: Tensor, initial_state: Tensor | None, documents: int | None = None
) -> None:
    """Check (B, L, H, K), (B, L, H, K), (B, L, H, V), states (B or documents, H, K, V), L >= 1; else ValueError."""
    if q.dim() != 4:
        raise ValueError(f"q has shape {tuple(q.shape)}, expected (batch, length, heads, key dimension)")
    batch, length, heads, key_dim = q.shape
    if length < 1:
        raise ValueError("q has length 0, expected at least one position")
    expect_shape("k", k, (batch, length, heads, key_dim))
    if v.dim() != 4 or v.shape[:3] != q.shape[:3]:
        raise ValueError(
            f"v has shape {tuple(v.shape)}, expected ({batch}, {length}, {heads}, value dimension)"
        )
    if initial_state is not None:
        rows = batch if documents is None else documents
        expect_shape("initial_state", initial_state, (rows, heads, key_dim, v.shape[-1]))


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """The dtype to accumulate in: float64 if any tensor is, else float32 (also for bfloat16 and float16)."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype
