"""Filling a prompt to its budget: what is needed first takes what it needs, what comes last is left out first."""

from collections.abc import Sequence
from dataclasses import dataclass

from asiarch.agents.llm.model import LlmError
from asiarch.agents.llm.prompts import Prompts
from asiarch.agents.llm.text import cut, tokens

_MARGIN = 64  # tokens of the chat's own marks, and of the seams between parts
_LEAST_CUT = 80  # a shorter rest of a text says nothing


@dataclass(frozen=True)
class Part:
    """Texts under one heading, the most needed first. As many of them are kept as fit; `cuttable` ones are cut."""

    name: str  # the placeholder
    items: tuple[str, ...]
    heading: str = ""
    cuttable: bool = False


def fit(parts: Sequence[Part], budget: int) -> dict[str, str]:
    """A text for each part, the empty one where nothing fits; `parts` in the order of need, `budget` in tokens."""
    texts = {}
    for part in parts:
        kept: list[str] = []
        room = budget - tokens(part.heading) - 2
        for item in part.items:
            if tokens(item) + 2 <= room:
                kept.append(item)
            elif part.cuttable and room > _LEAST_CUT:
                kept.append(cut(item, room - 2))
            else:
                continue  # a shorter one may still fit
            room -= tokens(kept[-1]) + 2
        texts[part.name] = "\n\n".join([part.heading, *kept]).strip() if kept else ""
        budget = room if kept else budget
    return texts


def filled(
    name: str,
    fixed: dict[str, str],
    parts: Sequence[Part],
    prompts: Prompts,
    context: int,
    least: int,
    most: int,
) -> tuple[str, str, int]:
    """What the system says, what the user says, and how many tokens the answer may have.

    The answer gets `least` tokens, then up to a third of the context before the optional parts get any, and at last
    what they leave, `most` at the most. Raises LlmError (overlong) when what must be there leaves less than `least`.
    """
    system, user = prompts.fill(name, {**fixed, **{part.name: "" for part in parts}})
    left = context - _MARGIN - tokens(system) - tokens(user)
    if left < least:
        raise LlmError(
            "overlong",
            f"the {name}'s prompt leaves {max(0, left)} of the {context} tokens of llm.context for an answer that "
            f"needs {least}; serve the model with a longer context",
        )
    wished = min(left, max(least, min(most, context // 3)))
    system, user = prompts.fill(name, {**fixed, **fit(parts, left - wished)})
    return system, user, min(most, context - _MARGIN - tokens(system) - tokens(user))


def contract(prompts: Prompts, budget: int) -> str:
    """As many sections of the contract, from the first, as fit; the first one always."""
    first, *others = prompts.contract_sections()
    text = first
    for section in others:
        if tokens(text) + tokens(section) + 2 > budget:
            break
        text = f"{text}\n\n{section}"
    return text
