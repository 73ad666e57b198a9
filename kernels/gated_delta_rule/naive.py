"""The gated delta rule as its recurrence, one position at a time: the definition."""

import torch
from torch import Tensor

from asiarch.kernels.shapes import compute_dtype


def naive_gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_decay: Tensor,
    scale: float,
    initial_state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """S_t = (I - beta_t k_t k_t^T) diag(exp(log_decay_t)) S_{t-1} + beta_t k_t v_t^T;  o_t = scale q_t^T S_t."""
    dtype = compute_dtype(q, k, v)
    batch, length, heads, key_dim = q.shape
    state = q.new_zeros(batch, heads, key_dim, v.shape[-1], dtype=dtype)
    if initial_state is not None:
        state = initial_state.to(dtype)
    outputs = []
    for t in range(length):
        key = k[:, t, :, :, None].to(dtype)
        decay = log_decay[:, t].to(dtype).exp()
        state = state * (decay[..., None, None] if log_decay.dim() == 3 else decay[..., None])
        error = v[:, t, :, None, :].to(dtype) - key.mT @ state
        state = state + beta[:, t, :, None, None].to(dtype) * key * error
        outputs.append(scale * (q[:, t, :, None, :].to(dtype) @ state).squeeze(-2))
    return torch.stack(outputs, dim=1).to(v.dtype), state
