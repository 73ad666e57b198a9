"""Whether a program decodes with a cache as it reads a whole text: found by running it."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from asiarch.models.fla_compat.cache import Cache
from asiarch.models.language_model import LanguageModel

LENGTH, PROMPT = 72, 37
TOLERANCE = 1e-3


@torch.no_grad()
def decodes(model: LanguageModel) -> bool:
    """Whether the logits token by token, with a cache, are those of the whole text.

    Compared on random tokens, two texts at once, a prompt and then single tokens; the difference's root mean
    square may be 0.001 of the logits' deviation. A program that raises when it is given a cache does not decode.
    The model is left in eval mode.
    """
    model.eval()
    device = model.embedding.weight.device
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.config.vocab_size, (2, LENGTH), generator=generator).to(device)
    whole = logits(model, tokens)
    cache = Cache()
    try:
        parts = [
            logits(model, part, cache) for part in (tokens[:, :PROMPT], *tokens[:, PROMPT:].split(1, dim=1))
        ]
    except Exception:  # any: it is the program's own
        return False
    difference = (torch.cat(parts, dim=1) - whole).square().mean().sqrt()
    return bool(difference <= TOLERANCE * whole.std())


def logits(
    model: LanguageModel, tokens: Tensor, cache: Any = None, cu_seqlens: Tensor | None = None
) -> Tensor:
    """(B, L, vocabulary) in float32, for tokens (B, L) that continue what filled the cache.

    `cu_seqlens`: borders of documents in the rows laid end to end, as in `LanguageModel.forward`.
    """
    return functional.linear(model.hidden(tokens, cu_seqlens, cache), model.embedding.weight).float()
