"""The cache of a language model in decoding: what each layer carries from one call to the next."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

STATES = ("recurrent_state", "attn_state", "conv_state", "ffn_state")


class Cache:
    """A state a layer, in the manner of flash-linear-attention's `fla.models.utils.Cache`.

    `cache[layer]` is a dict with the keys recurrent_state, attn_state, conv_state and ffn_state; `len(cache)` is
    the number of layers that have one. Every state's first dimension is the batch.
    """

    def __init__(self, seen_tokens: int = 0, **kwargs: Any) -> None:
        self.states: list[dict[str, Any]] = []
        self._seen: list[int] = []
        self._start = seen_tokens

    def __len__(self) -> int:
        return len(self.states)

    def __getitem__(self, layer_idx: int) -> dict[str, Any]:
        if layer_idx >= len(self.states):
            raise KeyError(f"the cache has {len(self.states)} layers, asked for layer {layer_idx}")
        return self.states[layer_idx]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.states)

    def update(
        self,
        recurrent_state: Any = None,
        attn_state: tuple[Tensor, ...] | None = None,
        conv_state: Any = None,
        ffn_state: Any = None,
        layer_idx: int = 0,
        offset: int | None = 1,
        cache_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Store what is given of a layer's states, and return all of them.

        Args:
            attn_state: tensors (batch, new length, ...) that are appended to those before, the last
                `cache_kwargs["window_size"]` of them kept where that is given.
            offset: how many positions were read; the length of `attn_state` where that is given.
        """
        while len(self.states) <= layer_idx:
            self.states.append(dict.fromkeys(STATES))
            self._seen.append(self._start)
        state = self.states[layer_idx]
        given = {"recurrent_state": recurrent_state, "conv_state": conv_state, "ffn_state": ffn_state}
        state.update({name: value for name, value in given.items() if value is not None})
        if attn_state is not None:
            offset = attn_state[0].shape[1]
            state["attn_state"] = _extended(
                state["attn_state"], attn_state, (cache_kwargs or {}).get("window_size")
            )
        self._seen[layer_idx] += 1 if offset is None else offset
        return state

    def get_seq_length(self, layer_idx: int | None = 0, cache_position: Any = None) -> int:
        """How many positions a layer has read."""
        return self._seen[layer_idx or 0] if (layer_idx or 0) < len(self._seen) else 0

    @property
    def seen_tokens(self) -> int:
        """How many positions the first layer has read."""
        return self.get_seq_length()

    def get_max_cache_shape(self, layer_idx: int = 0) -> int:
        """-1: there is no limit."""
        return -1

    get_max_length = get_max_cache_shape

    def reset(self) -> None:
        """Forget everything."""
        self.states.clear()
        self._seen.clear()

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Take the batch's rows `beam_idx`, in that order."""
        self._map(lambda value: value.index_select(0, beam_idx.to(value.device)))

    batch_select_indices = reorder_cache

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row of the batch."""
        self._map(lambda value: value.repeat_interleave(repeats, dim=0))

    def _map(self, function: Callable[[Tensor], Tensor]) -> None:
        self.states = [_mapped(state, function) for state in self.states]

    def to_legacy_cache(self) -> tuple[dict[str, Any], ...]:
        return tuple(self.states)

    @classmethod
    def from_legacy_cache(cls, past_key_values: Any = None, seen_tokens: int = 0, **kwargs: Any) -> "Cache":
        """The cache of a tuple of layers' states; a cache is returned as it is."""
        if isinstance(past_key_values, cls):
            return past_key_values
        cache = cls(seen_tokens)
        if past_key_values is not None:
            cache.states = list(past_key_values)
            cache._seen = [seen_tokens] * len(cache.states)
        return cache


FLACache = LegacyFLACache = Cache


def _extended(old: Any, new: tuple[Tensor, ...], window: int | None) -> tuple[Tensor, ...]:
    joined = new if old is None else tuple(torch.cat(pair, dim=1) for pair in zip(old, new, strict=True))
    return tuple(joined) if window is None else tuple(part[:, -window:] for part in joined)


def _mapped(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return {key: _mapped(item, function) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_mapped(item, function) for item in value)
    return value
