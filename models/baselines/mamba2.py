"""Mamba-2's mixer, the state space dual (Dao and Gu, "Transformers are SSMs", 2024).

Shapes: B batch, L length, D hidden size, I = 2 D inner size, H heads, P = I / H channels of a head, N state size.
(The paper has N = 128 and heads of 64 channels; here N = D / (2 H) unless asked for, so that all baselines'
memories are equally large, D^2 / H numbers.)
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from asiarch.kernels import linear_attention, rms_norm, short_convolution

# the rate of decay, and the step at an input of zero
RATE = (1.0, 16.0)
STEP = (0.001, 0.1)


class Mamba2(nn.Module):
    """One projection to gate, values, keys, queries and step; keys and queries shared by the heads; a skip."""

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        layer_idx: int | None = None,
        expand: int = 2,
        state_size: int | None = None,
        conv_width: int = 4,
        **config: Any,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.layer_idx: Any = layer_idx
        self.inner = expand * hidden_size
        self.state_size = state_size or max(1, hidden_size // (expand * num_heads))
        mixed = self.inner + 2 * self.state_size
        self.in_proj = nn.Linear(hidden_size, self.inner + mixed + num_heads, bias=False)
        # uniform in +-1/sqrt(width), as PyTorch does for a depthwise convolution
        bound = conv_width**-0.5
        self.conv_weight = nn.Parameter(torch.empty(mixed, conv_width).uniform_(-bound, bound))
        self.conv_bias = nn.Parameter(torch.empty(mixed).uniform_(-bound, bound))
        self.A_log = nn.Parameter(torch.empty(num_heads).uniform_(*RATE).log())
        step = torch.empty(num_heads).uniform_(math.log(STEP[0]), math.log(STEP[1])).exp()
        self.dt_bias = nn.Parameter(step + torch.log(-torch.expm1(-step)))  # softplus(dt_bias) = step
        self.D = nn.Parameter(torch.ones(num_heads))
        self.norm_weight = nn.Parameter(torch.ones(self.inner))
        self.out_proj = nn.Linear(self.inner, hidden_size, bias=False)

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
        sizes = [self.inner, self.inner + 2 * self.state_size, self.num_heads]
        gate, mixed, step = self.in_proj(hidden_states).split(sizes, dim=-1)
        mixed, conv_state = short_convolution(
            mixed,
            self.conv_weight,
            self.conv_bias,
            activation="silu",
            initial_state=before.get("conv_state"),
            **rules,
        )
        x, key, query = mixed.split([self.inner, self.state_size, self.state_size], dim=-1)
        x = x.unflatten(-1, (self.num_heads, -1))
        wide = torch.promote_types(step.dtype, torch.float32)
        step = functional.softplus(step.to(wide) + self.dt_bias.to(wide))
        shared = (-1, -1, self.num_heads, -1)
        o, memory = linear_attention(
            query.unsqueeze(2).expand(shared),
            key.unsqueeze(2).expand(shared),
            (x * step.unsqueeze(-1)).to(x.dtype),
            -self.A_log.to(wide).exp() * step,
            scale=1.0,
            initial_state=before.get("recurrent_state"),
            **rules,
        )
        if use_cache and past is not None:
            past.update(
                recurrent_state=memory,
                conv_state=conv_state,
                layer_idx=self.layer_idx,
                offset=hidden_states.shape[1],
            )
        o = (o + self.D.unsqueeze(-1) * x).flatten(-2)
        return self.out_proj(rms_norm(o * functional.silu(gate), self.norm_weight))
