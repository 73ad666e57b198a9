"""DeltaNet (Yang et al., "Parallelizing Linear Transformers with the Delta Rule", 2024).

Shapes: B batch, L length, D hidden size, H heads, K key dimension of a head, V its value dimension.
"""

from typing import Any

import torch
from torch import Tensor, nn

from asiarch.kernels import delta_rule, l2_norm, rms_norm, short_convolution


class DeltaNet(nn.Module):
    """Short convolutions with silu on q, k, v; keys and queries of length 1; one write strength a head."""

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        layer_idx: int | None = None,
        conv_width: int = 4,
        expand_k: float = 1.0,
        expand_v: float = 1.0,
        **config: Any,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.layer_idx: Any = layer_idx
        key_size, value_size = int(hidden_size * expand_k), int(hidden_size * expand_v)
        self.q_proj = nn.Linear(hidden_size, key_size, bias=False)
        self.k_proj = nn.Linear(hidden_size, key_size, bias=False)
        self.v_proj = nn.Linear(hidden_size, value_size, bias=False)
        self.beta_proj = nn.Linear(hidden_size, num_heads, bias=False)
        self.q_conv = self._filter(key_size, conv_width)
        self.k_conv = self._filter(key_size, conv_width)
        self.v_conv = self._filter(value_size, conv_width)
        self.norm_weight = nn.Parameter(torch.ones(value_size // num_heads))
        self.o_proj = nn.Linear(value_size, hidden_size, bias=False)

    @staticmethod
    def _filter(channels: int, width: int) -> nn.Parameter:
        # uniform in +-1/sqrt(width), as PyTorch does for a depthwise convolution
        return nn.Parameter(torch.empty(channels, width).uniform_(-(width**-0.5), width**-0.5))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1))

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool = False,
        **kwargs: Any,
    ) -> Tensor:
        """(B, L, D) -> (B, L, D). `cu_seqlens`: borders of documents in one row. `past_key_values`: a `Cache`."""
        past = past_key_values
        before = past[self.layer_idx] if past is not None and len(past) > self.layer_idx else {}
        rules: dict[str, Any] = {"output_final_state": use_cache, "cu_seqlens": kwargs.get("cu_seqlens")}
        convolved, conv_state = [], []
        inputs = (self.q_proj(hidden_states), self.k_proj(hidden_states), self.v_proj(hidden_states))
        filters = (self.q_conv, self.k_conv, self.v_conv)
        for x, weight, tail in zip(inputs, filters, before.get("conv_state") or (None,) * 3, strict=True):
            y, state = short_convolution(x, weight, activation="silu", initial_state=tail, **rules)
            convolved.append(self._heads(y))
            conv_state.append(state)
        q, k, v = convolved
        beta = torch.sigmoid(self.beta_proj(hidden_states))
        memory = before.get("recurrent_state")
        o, memory = delta_rule(l2_norm(q), l2_norm(k), v, beta, initial_state=memory, **rules)
        if use_cache and past is not None:
            past.update(
                recurrent_state=memory,
                conv_state=tuple(conv_state),
                layer_idx=self.layer_idx,
                offset=hidden_states.shape[1],
            )
        return self.o_proj(rms_norm(o, self.norm_weight).flatten(-2))
