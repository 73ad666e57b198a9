"""Gated linear attention (Yang et al., "Gated Linear Attention Transformers", 2024).

Shapes: B batch, L length, D hidden size, H heads, K key dimension of a head, V its value dimension. (The paper
halves the keys' dimension; here K = V = D / H unless asked for, so that all baselines' memories are equally large.)
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from asiarch.kernels import gated_rms_norm, linear_attention

# The decay's projection has a low rank, and its logarithm is divided so that memories start long
DECAY_RANK = 16
DECAY_TEMPERATURE = 16.0


class GLA(nn.Module):
    """Linear attention with a data-dependent decay, one a key channel, and an output gate."""

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        layer_idx: int | None = None,
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
        self.gate_proj = nn.Linear(hidden_size, value_size, bias=False)
        rank = min(DECAY_RANK, hidden_size)
        self.decay_down = nn.Linear(hidden_size, rank, bias=False)
        self.decay_up = nn.Linear(rank, key_size, bias=True)
        self.norm_weight = nn.Parameter(torch.ones(value_size // num_heads))
        self.o_proj = nn.Linear(value_size, hidden_size, bias=False)

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
        q, k, v, gate = (
            self._heads(project(hidden_states))
            for project in (self.q_proj, self.k_proj, self.v_proj, self.gate_proj)
        )
        decay = self._heads(self.decay_up(self.decay_down(hidden_states)))
        decay = decay.to(torch.promote_types(decay.dtype, torch.float32))
        o, memory = linear_attention(
            q,
            k,
            v,
            functional.logsigmoid(decay) / DECAY_TEMPERATURE,
            initial_state=before.get("recurrent_state"),
            output_final_state=use_cache,
            cu_seqlens=kwargs.get("cu_seqlens"),
        )
        if use_cache and past is not None:
            past.update(recurrent_state=memory, layer_idx=self.layer_idx, offset=hidden_states.shape[1])
        return self.o_proj(gated_rms_norm(o, gate, self.norm_weight).flatten(-2))
