"""Kimi Delta Attention (Kimi Team, "Kimi Linear: An Expressive, Efficient Attention Architecture", 2025).

Shapes: B batch, L length, D hidden size, H heads, K = V = D / H, the dimension of a head's keys and values.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from asiarch.kernels import gated_delta_rule, l2_norm, rms_norm, short_convolution

# Mamba's ranges (Gu and Dao, 2023): the rate of decay, and the step at an input of zero
RATE = (1.0, 16.0)
STEP = (0.001, 0.1)


class KimiDeltaAttention(nn.Module):
    """Gated DeltaNet with a decay of its own for each key channel, and a sigmoid output gate of low rank."""

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        layer_idx: int | None = None,
        conv_width: int = 4,
        head_dim: int | None = None,
        expand_v: float = 1.0,
        **config: Any,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.layer_idx: Any = layer_idx
        key_size = num_heads * (head_dim or hidden_size // num_heads)
        value_size = int(key_size * expand_v)
        rank = value_size // num_heads
        self.q_proj = nn.Linear(hidden_size, key_size, bias=False)
        self.k_proj = nn.Linear(hidden_size, key_size, bias=False)
        self.v_proj = nn.Linear(hidden_size, value_size, bias=False)
        self.beta_proj = nn.Linear(hidden_size, num_heads, bias=False)
        self.decay_down = nn.Linear(hidden_size, rank, bias=False)
        self.decay_up = nn.Linear(rank, key_size, bias=False)
        self.gate_down = nn.Linear(hidden_size, rank, bias=False)
        self.gate_up = nn.Linear(rank, value_size, bias=True)
        self.q_conv = self._filter(key_size, conv_width)
        self.k_conv = self._filter(key_size, conv_width)
        self.v_conv = self._filter(value_size, conv_width)
        self.A_log = nn.Parameter(torch.empty(num_heads).uniform_(*RATE).log())
        step = torch.empty(key_size).uniform_(math.log(STEP[0]), math.log(STEP[1])).exp()
        self.dt_bias = nn.Parameter(step + torch.log(-torch.expm1(-step)))  # softplus(dt_bias) = step
        self.norm_weight = nn.Parameter(torch.ones(rank))
        self.o_proj = nn.Linear(value_size, hidden_size, bias=False)

    @staticmethod
    def _filter(channels: int, width: int) -> nn.Parameter:
        # uniform in +-1/sqrt(width), as PyTorch does for a depthwise convolution
        return nn.Parameter(torch.empty(channels, width).uniform_(-(width**-0.5), width**-0.5))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1))

    def _log_decay(self, hidden_states: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, H, K), in float32 or above."""
        step = self.decay_up(self.decay_down(hidden_states))
        step = step.to(torch.promote_types(step.dtype, torch.float32))
        rate = self.A_log.to(step).exp().unsqueeze(-1)
        return -rate * self._heads(functional.softplus(step + self.dt_bias.to(step)))

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
        q, k, v = l2_norm(convolved[0]), l2_norm(convolved[1]), convolved[2]
        beta = torch.sigmoid(self.beta_proj(hidden_states))
        memory = before.get("recurrent_state")
        log_decay = self._log_decay(hidden_states)
        o, memory = gated_delta_rule(q, k, v, beta, log_decay, initial_state=memory, **rules)
        if use_cache and past is not None:
            past.update(
                recurrent_state=memory,
                conv_state=tuple(conv_state),
                layer_idx=self.layer_idx,
                offset=hidden_states.shape[1],
            )
        gate = self._heads(self.gate_up(self.gate_down(hidden_states))).sigmoid()
        return self.o_proj((rms_norm(o, self.norm_weight) * gate).flatten(-2))
