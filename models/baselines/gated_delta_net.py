"""Gated DeltaNet (Yang, Kautz and Hatamizadeh, "Gated Delta Networks", 2025).

Shapes: B batch, L length, D hidden size, H heads, K = D / H, the dimension of a head's keys and values.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from asiarch.kernels import gated_delta_rule, gated_rms_norm, l2_norm, short_convolution

# Mamba's ranges (Gu and Dao, 2023): the rate of decay, and the step at an input of zero
RATE = (1.0, 16.0)
STEP = (0.001, 0.1)


class GatedDeltaNet(nn.Module):
    """DeltaNet with a decay of the memory, one a head and data-dependent, and an output gate."""

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        layer_idx: int | None = None,
        conv_width: int = 4,
        **config: Any,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.k_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.v_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.gate_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.beta_proj = nn.Linear(hidden_size, num_heads, bias=False)
        self.step_proj = nn.Linear(hidden_size, num_heads, bias=False)
        self.q_conv = self._filter(hidden_size, conv_width)
        self.k_conv = self._filter(hidden_size, conv_width)
        self.v_conv = self._filter(hidden_size, conv_width)
        self.A_log = nn.Parameter(torch.empty(num_heads).uniform_(*RATE).log())
        step = torch.empty(num_heads).uniform_(math.log(STEP[0]), math.log(STEP[1])).exp()
        self.dt_bias = nn.Parameter(step + torch.log(-torch.expm1(-step)))  # softplus(dt_bias) = step
        self.norm_weight = nn.Parameter(torch.ones(hidden_size // num_heads))
        self.o_proj = nn.Linear(hidden_size, hidden_size, bias=False)

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
        """(B, L, D) -> (B, L, D)."""
        q, _ = short_convolution(self.q_proj(hidden_states), self.q_conv, activation="silu")
        k, _ = short_convolution(self.k_proj(hidden_states), self.k_conv, activation="silu")
        v, _ = short_convolution(self.v_proj(hidden_states), self.v_conv, activation="silu")
        beta = torch.sigmoid(self.beta_proj(hidden_states))
        step = functional.softplus(self.step_proj(hidden_states).float() + self.dt_bias.float())
        log_decay = -self.A_log.float().exp() * step
        q, k = l2_norm(self._heads(q)), l2_norm(self._heads(k))
        o, _ = gated_delta_rule(q, k, self._heads(v), beta, log_decay)
        gate = self._heads(self.gate_proj(hidden_states))
        return self.o_proj(gated_rms_norm(o, gate, self.norm_weight).flatten(-2))
