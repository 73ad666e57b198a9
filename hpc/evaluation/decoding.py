"""Decoding token by token through the mixers' own caches, and whether a program has one.

The contract's `past_key_values` and `use_cache` mean what they mean in flash-linear-attention: a layer called with
use_cache=True reads its state from the cache, and leaves the new one there. A program need not have a cache.
"""

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from asiarch.models.contract import first_line
from asiarch.models.fla_compat.cache import Cache
from asiarch.models.language_model import Block, LanguageModel, build_mixer, seeded

PROMPT, DECODED = 9, 3  # tokens of the trial run; neither divides into chunks
TOLERANCE = 1e-3


def decode(model: LanguageModel, tokens: Tensor, cache: Cache | None = None) -> tuple[Tensor, Cache]:
    """Logits (B, L, vocabulary) of the next tokens (B, L) int64 after what the cache has read, and the cache.

    Without a cache it begins with an empty one.
    """
    cache = Cache() if cache is None else cache
    x = model.embedding(tokens)
    for block in model.blocks:
        assert isinstance(block, Block)
        mixed = block.mixer(block.mixer_norm(x), past_key_values=cache, use_cache=True)
        x = x + (mixed[0] if isinstance(mixed, tuple) else mixed)
        x = x + block.ffn(block.ffn_norm(x))
    return nn.functional.linear(model.final_norm(x), model.embedding.weight), cache


def cache_bytes(cache: Cache) -> int:
    """What the states of all layers take."""
    states = [leaf for state in cache for leaf in tree_leaves(state) if isinstance(leaf, Tensor)]
    return sum(state.numel() * state.element_size() for state in states)


@torch.no_grad()
def why_not_decodable(model: LanguageModel, mixer_class: type[nn.Module]) -> str | None:
    """None where a mixer gives with its cache what it gives without; else what is in the way.

    Told by running one in float32: a prompt and then a few tokens, one after the other, against the whole at once.
    """
    with seeded(0, "decoding"):
        mixer = build_mixer(model.config, mixer_class, 0).eval().float()
        x = torch.randn(2, PROMPT + DECODED, model.config.hidden_size)
    device = model.embedding.weight.device
    mixer, x = mixer.to(device), x.to(device)
    cache = Cache()
    try:
        whole = _output(mixer(x))
        parts = [_output(mixer(x[:, :PROMPT], past_key_values=cache, use_cache=True))]
        for place in range(PROMPT, PROMPT + DECODED):
            parts.append(_output(mixer(x[:, place : place + 1], past_key_values=cache, use_cache=True)))
        off = float((torch.cat(parts, dim=1) - whole).square().mean().sqrt() / whole.square().mean().sqrt())
    except Exception as error:  # whatever a program does that was never asked to have a cache
        return f"{type(error).__name__}: {first_line(error)}"
    if off <= TOLERANCE:
        return None
    return f"with past_key_values its outputs differ by {off:.1%} from those without"


def _output(mixed: Tensor | tuple[Tensor, ...]) -> Tensor:
    return mixed[0] if isinstance(mixed, tuple) else mixed
