"""Linear attention as its recurrence, one position at a time: the definition."""

import torch
from torch import Tensor

from asiarch.kernels.shapes import compute_dtype


def naive_linear_attention(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None, scale: float, initial_state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """S_t = exp(log_decay_t) S_{t-1} + k_t v_t^T;  o_t = scale q_t^T S_t. Shapes as in `linear_attention`."""
    dtype = compute_dtype(q, k, v)
    batch, length, heads, key_dim = q.shape
    state = q.new_zeros(batch, heads, key_dim, v.shape[-1], dtype=dtype)
    if initial_state is not None:
        state = initial_state.to(dtype)
    outputs = []
    for t in range(length):
        if log_decay is not None:
            decay = log_decay[:, t].to(dtype).exp()
            state = state * (decay[..., None, None] if log_decay.dim() == 3 else decay[..., None])
        state = state + k[:, t, :, :, None].to(dtype) * v[:, t, :, None, :].to(dtype)
        outputs.append(scale * (q[:, t, :, None, :].to(dtype) @ state).squeeze(-2))
    return torch.stack(outputs, dim=1).to(v.dtype), state
