"""Linear attention without decay (Katharopoulos et al., "Transformers are RNNs", 2020).

Shapes: B batch, L length, D hidden size, H heads, K = D / H, the dimension of a head's keys and values.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from asiarch.kernels import linear_attention


class LinearAttention(nn.Module):
    """Attention whose weights are products of positive features, elu(x) + 1, normalised to sum to one."""

    def __init__(self, hidden_size: int, num_heads: int, layer_idx: int | None = None, **config: Any) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.layer_idx: Any = layer_idx
        self.q_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.k_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.v_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.o_proj = nn.Linear(hidden_size, hidden_size, bias=False)

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
        q, k, v = (
            project(hidden_states).unflatten(-1, (self.num_heads, -1))
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        o, memory = linear_attention(
            functional.elu(q) + 1,
            functional.elu(k) + 1,
            # a value of one beside the others gathers the weights' sum
            torch.cat([v, torch.ones_like(v[..., :1])], dim=-1),
            initial_state=before.get("recurrent_state"),
            output_final_state=use_cache,
            cu_seqlens=kwargs.get("cu_seqlens"),
        )
        if use_cache and past is not None:
            past.update(recurrent_state=memory, layer_idx=self.layer_idx, offset=hidden_states.shape[1])
        return self.o_proj((o[..., :-1] / o[..., -1:]).flatten(-2))
