"""Wrong: attends to the four largest keys of the whole sequence.

Refused by: causal
"""

from torch import nn


class Mixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        x = hidden_states
        strength = self.proj(x).sum(-1)
        chosen = strength.topk(min(4, x.shape[1]), dim=1).indices
        keys = x.gather(1, chosen[..., None].expand(-1, -1, x.shape[-1]))
        return self.proj(x) * keys.mean(1, keepdim=True)
