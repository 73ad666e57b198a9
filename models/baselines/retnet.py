"""Multi-scale retention (Sun et al., "Retentive Network: A Successor to Transformer", 2023).

Shapes: B batch, L length, D hidden size, H heads, K key dimension of a head, V its value dimension. (The paper
doubles the values' dimension; here K = V = D / H unless asked for, so that all baselines' memories are equally
large.) The output is normalised by its root mean square, as in flash-linear-attention; the paper also centres it.
"""

from typing import Any

import torch
from torch import Tensor, nn

from asiarch.kernels import gated_rms_norm, linear_attention


class RetNet(nn.Module):
    """Linear attention on rotated queries and keys, with one fixed decay a head, and an output gate."""

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        layer_idx: int | None = None,
        expand_k: float = 1.0,
        expand_v: float = 1.0,
        rope_base: float = 10000.0,
        **config: Any,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.layer_idx: Any = layer_idx
        self.rope_base = rope_base
        key_size, value_size = int(hidden_size * expand_k), int(hidden_size * expand_v)
        self.q_proj = nn.Linear(hidden_size, key_size, bias=False)
        self.k_proj = nn.Linear(hidden_size, key_size, bias=False)
        self.v_proj = nn.Linear(hidden_size, value_size, bias=False)
        self.gate_proj = nn.Linear(hidden_size, value_size, bias=False)
        self.norm_weight = nn.Parameter(torch.ones(value_size // num_heads))
        self.o_proj = nn.Linear(value_size, hidden_size, bias=False)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1))

    def _rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        """Turn channels i and i + K // 2 of (B, L, H, K) by position * base^(-2i / K)."""
        half = x.shape[-1] // 2
        dtype = torch.promote_types(x.dtype, torch.float32)
        pairs = torch.arange(half, device=x.device, dtype=dtype)
        angle = positions.to(dtype)[:, None, None] * self.rope_base ** (-pairs / max(half, 1))
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
        return torch.cat([first * cos - second * sin, first * sin + second * cos, rest], dim=-1)

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
        length = hidden_states.shape[1]
        # only distances count, so documents in one row need no positions of their own
        start = 0 if past is None else past.get_seq_length(self.layer_idx)
        positions = torch.arange(start, start + length, device=hidden_states.device)
        q = self._rotate(self._heads(self.q_proj(hidden_states)), positions)
        k = self._rotate(self._heads(self.k_proj(hidden_states)), positions)
        head = torch.arange(
            self.num_heads, device=q.device, dtype=torch.promote_types(q.dtype, torch.float32)
        )
        log_decay = torch.log1p(-(2.0 ** (-5.0 - head))).expand(q.shape[:3])
        o, memory = linear_attention(
            q,
            k,
            self._heads(self.v_proj(hidden_states)),
            log_decay,
            initial_state=before.get("recurrent_state"),
            output_final_state=use_cache,
            cu_seqlens=kwargs.get("cu_seqlens"),
        )
        if use_cache and past is not None:
            past.update(recurrent_state=memory, layer_idx=self.layer_idx, offset=length)
        gate = self._heads(self.gate_proj(hidden_states))
        return self.o_proj(gated_rms_norm(o, gate, self.norm_weight).flatten(-2))
