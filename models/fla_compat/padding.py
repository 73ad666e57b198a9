"""Padded batches to packed ones and back, and the helpers of layers with a cache (`fla.layers.utils`).

A packed batch has one row that holds sequences end to end; `cu_seqlens` (N + 1,) holds their borders, from 0 to
the row's length. A mask (batch, length) is 1 or true where there is a token.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def prepare_lens(cu_seqlens: Tensor) -> Tensor:
    """The sequences' lengths, (N,)."""
    return cu_seqlens.diff()


def prepare_lens_from_mask(mask: Tensor) -> Tensor:
    """The number of tokens in each row of a mask, (batch,) int32."""
    return mask.sum(-1, dtype=torch.int32)


def prepare_cu_seqlens_from_lens(lens: Tensor, dtype: torch.dtype = torch.int32) -> Tensor:
    """The borders of sequences of these lengths, (N + 1,)."""
    return functional.pad(lens.cumsum(0, dtype=dtype), (1, 0))


def prepare_cu_seqlens_from_mask(mask: Tensor, dtype: torch.dtype = torch.int32) -> Tensor:
    """The borders of the packed rows of a mask, (batch + 1,)."""
    return prepare_cu_seqlens_from_lens(prepare_lens_from_mask(mask), dtype)


def prepare_sequence_ids(cu_seqlens: Tensor, cu_seqlens_cpu: Tensor | None = None) -> Tensor:
    """For each packed position the number of its sequence."""
    lens = cu_seqlens.diff()
    return torch.arange(len(lens), device=lens.device).repeat_interleave(lens).to(cu_seqlens.dtype)


def prepare_position_ids(cu_seqlens: Tensor, cu_seqlens_cpu: Tensor | None = None) -> Tensor:
    """For each packed position its place in its sequence, from 0."""
    ids = prepare_sequence_ids(cu_seqlens).long()
    return torch.arange(len(ids), device=ids.device).to(cu_seqlens.dtype) - cu_seqlens[ids]


def index_first_axis(x: Tensor, indices: Tensor) -> Tensor:
    """Rows of x (length, ...)."""
    return x[indices]


def index_put_first_axis(x: Tensor, indices: Tensor, first_axis_dim: int) -> Tensor:
    """Zeros (first_axis_dim, ...) with x at the rows `indices`."""
    return x.new_zeros(first_axis_dim, *x.shape[1:]).index_put((indices,), x)


def get_unpad_indices_and_cu(attention_mask: Tensor, q_len: int | None = None) -> tuple[Tensor, Tensor]:
    """Where the last `q_len` positions' tokens are in the flattened batch, and the packed sequences' borders."""
    mask = attention_mask if q_len is None else attention_mask[:, -q_len:]
    return mask.flatten().nonzero().flatten(), prepare_cu_seqlens_from_mask(mask)


def get_unpad_data(attention_mask: Tensor) -> tuple[Tensor, Tensor, int]:
    """Where the tokens are in the flattened batch, the packed sequences' borders, and the longest length."""
    indices, borders = get_unpad_indices_and_cu(attention_mask)
    return indices, borders, int(prepare_lens_from_mask(attention_mask).max())


def pad_input(hidden_states: Tensor, indices: Tensor, batch_size: int, seq_len: int) -> Tensor:
    """Packed states (tokens, ...) back to (batch_size, seq_len, ...), zeros at the padding."""
    return index_put_first_axis(hidden_states, indices, batch_size * seq_len).unflatten(
        0, (batch_size, seq_len)
    )


def unpad_input(
    q: Any, states: tuple[Tensor, ...], attention_mask: Tensor, q_len: int, keepdim: bool = False
) -> tuple[Any, tuple[Tensor, ...], Tensor, tuple[Tensor, Tensor], tuple[int, int]]:
    """Queries (batch, q_len, ...), one or a tuple, and states (batch, length, ...), packed by the mask.

    Returns the queries, the states, where the queries' tokens are in the flattened batch, both borders, and both
    longest lengths. Raises NotImplementedError unless q_len is 1 or the mask's length.
    """
    indices, borders, longest = get_unpad_data(attention_mask)
    queries = q if isinstance(q, tuple) else (q,)
    batch, length = states[0].shape[:2]
    packed = tuple(index_first_axis(state.flatten(0, 1), indices) for state in states)
    if q_len == length:
        q_indices, q_borders, q_longest = indices, borders, longest
        queries = tuple(index_first_axis(part.flatten(0, 1), indices) for part in queries)
    elif q_len == 1:
        q_borders = torch.arange(batch + 1, dtype=torch.int32, device=states[0].device)
        q_indices, q_longest = q_borders[:-1], 1
        queries = tuple(part.squeeze(1) for part in queries)
    else:
        raise NotImplementedError(f"q_len is {q_len}, expected 1 or the states' length {length}")
    if keepdim:
        queries, packed = (tuple(part.unsqueeze(0) for part in parts) for parts in (queries, packed))
    return (
        queries if isinstance(q, tuple) else queries[0],
        packed,
        q_indices,
        (q_borders, borders),
        (q_longest, longest),
    )


def unpad_hidden_states(
    hidden_states: Tensor, cu_seqlens: Tensor | None, attention_mask: Tensor | None, q_len: int
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Hidden states (batch, q_len, ...) packed by the mask to (1, tokens, ...), their places, and the borders.

    Borders that are given win over the mask; without either the states come back as they are.
    """
    if cu_seqlens is not None or attention_mask is None:
        return hidden_states, None, cu_seqlens
    indices, borders = get_unpad_indices_and_cu(attention_mask, q_len)
    return index_first_axis(hidden_states.flatten(0, 1), indices).unsqueeze(0), indices, borders


def repad_hidden_states(hidden_states: Tensor, indices: Tensor | None, batch_size: int, q_len: int) -> Tensor:
    """The inverse of `unpad_hidden_states`."""
    if indices is None:
        return hidden_states
    return pad_input(hidden_states.squeeze(0), indices, batch_size, q_len)


def require_cache_layer_idx(module: nn.Module, past_key_values: Any) -> Any:
    """The layer's index. Raises ValueError where there is a cache and the layer has none."""
    layer = getattr(module, "layer_idx", None)
    if past_key_values is not None and layer is None:
        raise ValueError(f"{type(module).__name__} needs layer_idx to use a cache")
    return layer


def get_layer_cache(module: nn.Module, past_key_values: Any) -> Any:
    """What a layer left in the cache, or None."""
    layer = require_cache_layer_idx(module, past_key_values)
    if past_key_values is None or len(past_key_values) <= layer:
        return None
    return past_key_values[layer]


def update_layer_cache(module: nn.Module, past_key_values: Any, **states: Any) -> Any:
    """Store a layer's states in the cache, where there is one."""
    layer = require_cache_layer_idx(module, past_key_values)
    return None if past_key_values is None else past_key_values.update(layer_idx=layer, **states)
