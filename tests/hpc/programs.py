"""Small programs of the contract for the tests."""

PROGRAM = """
import torch
from torch import nn

class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        return {output}
"""

# a cumulative sum that begins anew with each document
RESETTING = (
    PROGRAM.replace("use_cache=False,", "use_cache=False, cu_seqlens=None,").format(
        output="self.proj(self.sums(hidden_states, cu_seqlens))"
    )
    + """
    def sums(self, x, cu_seqlens):
        documents = [x] if cu_seqlens is None else x.split(cu_seqlens.diff().tolist(), dim=1)
        return torch.cat([document.cumsum(dim=1) for document in documents], dim=1)
"""
)
