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


def room_for(
    context: int, answer: int, prompts: Prompts, name: str, fixed: dict[str, str], optional: Sequence[str]
) -> int:
    """How many tokens are left for the optional parts once the answer and all that must be there have theirs.

    Raises LlmError (truncated) when there are fewer than none.
    """
    system, user = prompts.fill(name, {**fixed, **dict.fromkeys(optional, "")})
    left = context - answer - _MARGIN - tokens(system) - tokens(user)
    if left < 0:
        raise LlmError(
            "truncated",
            f"the {name}'s prompt is {-left} tokens too long for the context of {context}, {answer} the answer's",
        )
    return left


def contract(prompts: Prompts, budget: int) -> str:
    """As many sections of the contract, from the first, as fit; the first one always."""
    first, *others = prompts.contract_sections()
    text = first
    for section in others:
        if tokens(text) + tokens(section) + 2 > budget:
            break
        text = f"{text}\n\n{section}"
    return text
