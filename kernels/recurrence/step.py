"""One position of the recurrence: decoding."""

from torch import Tensor

from asiarch.kernels.shapes import compute_dtype


def step_recurrence(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor | None,
    log_decay: Tensor | None,
    scale: float,
    initial_state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The recurrence of `recurrence` for length 1, with none of the work that chunks need."""
    dtype, out_dtype = compute_dtype(q, k, v), v.dtype
    q, k, v = (x.squeeze(1).to(dtype) for x in (q, k, v))
    state = k.new_zeros(*k.shape, v.shape[-1]) if initial_state is None else initial_state.to(dtype)
    if log_decay is not None:
        decay = log_decay.squeeze(1).to(dtype).exp()
        state = state * (decay if decay.dim() == 3 else decay.unsqueeze(-1)).unsqueeze(-1)
    if beta is not None:
        v = beta.squeeze(1).unsqueeze(-1).to(dtype) * (v - (k.unsqueeze(-2) @ state).squeeze(-2))
    state = state + k.unsqueeze(-1) * v.unsqueeze(-2)
    output = scale * (q.unsqueeze(-2) @ state)
    return output.transpose(1, 2).to(out_dtype), state
