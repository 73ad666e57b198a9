"""What comes out of drafting and repairing: the program, what led to it, and every attempt on the way."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from asiarch.agents.llm.model import LlmError
from asiarch.agents.proposer import NothingNew

Origin = Literal["experience", "cognition", "original"]


@dataclass(frozen=True)
class Refusal:
    """Why a program was refused: the check's name (or edits, syntax, duplicate, training) and what it found."""

    name: str
    message: str


@dataclass(frozen=True)
class Findings:
    """What a check found; without refusals the program is accepted."""

    refusals: tuple[Refusal, ...] = ()

    @property
    def accepted(self) -> bool:
        """Whether nothing was refused."""
        return not self.refusals

    def signature(self) -> frozenset[tuple[str, str]]:
        """The same for the same failure: without numbers, paths and spaces, which differ from try to try."""
        return frozenset((refusal.name, _normalised(refusal.message)) for refusal in self.refusals)


Check = Callable[[str], Findings]  # runs a program's checks, in the sandbox


@dataclass(frozen=True)
class Attempt:
    """One program that the LLM wrote, and what became of it.

    `program` is empty where the answer held none; `answer` is then what it held. `role` and `turn` are those of the
    call; `answered` what the call answered to.
    """

    role: Literal["planner", "repair"]
    turn: str
    answered: Literal["plan", "duplicate", "refusal"]
    program: str
    answer: str
    findings: Findings


@dataclass(frozen=True)
class Plan:
    """Why a program is tried. `used_cards` and `used_candidates`: of those shown, which the planner says it used."""

    name: str
    motivation: str
    hypothesis: str
    change: str
    used_cards: tuple[str, ...] = ()
    used_candidates: tuple[int, ...] = ()
    shown_cards: tuple[str, ...] = ()
    shown_candidates: tuple[int, ...] = ()  # the parent among them

    @property
    def origins(self) -> tuple[Origin, ...]:
        """Where the idea came from, in ASI-Arch's three kinds: parents and references, cards, or neither."""
        found: tuple[Origin, ...] = ("experience",) if self.used_candidates else ()
        return (*found, "cognition") if self.used_cards else found or ("original",)


@dataclass(frozen=True)
class Draft:
    """A candidate as the LLM left it: accepted by the check, or refused still after the last repair."""

    program: str
    plan: Plan
    parent: int
    saw: tuple[int, ...]  # the candidates whose results or programs were shown or compared with
    novelty: str  # the judge's words; why there are none
    attempts: tuple[Attempt, ...]  # the last one made `program`
    outcome: Literal["accepted", "refused"]
    ended: str  # why no further repair was tried; empty when accepted

    @property
    def shown_cards(self) -> tuple[str, ...]:
        """The ids of the cards that the plan's prompt held."""
        return self.plan.shown_cards

    @property
    def repairs(self) -> int:
        """How many repairs were asked for."""
        return sum(attempt.role == "repair" for attempt in self.attempts)


@dataclass(frozen=True)
class Repaired:
    """A program after its repairs: `program` is the last one that there is, `change` what the last repair did."""

    program: str
    change: str
    attempts: tuple[Attempt, ...]
    outcome: Literal["accepted", "refused"]
    ended: str  # why no further repair was tried; empty when accepted


class DraftFailed(LlmError):
    """The LLM gave nothing to go on with; `attempts` are those before, to be kept."""

    def __init__(self, error: LlmError, attempts: tuple[Attempt, ...]) -> None:
        super().__init__(error.outcome, str(error))
        self.attempts = attempts


class OnlyDuplicates(NothingNew):
    """Every plan was a duplicate; `attempts` holds them, with what they repeat."""

    def __init__(self, text: str, attempts: tuple[Attempt, ...]) -> None:
        super().__init__(text)
        self.attempts = attempts


def _normalised(message: str) -> str:
    text = re.sub(r"0x[0-9a-fA-F]+|\d+(\.\d+)?(e[+-]?\d+)?", "#", message.lower())
    return re.sub(r"\s+", " ", re.sub(r"\S*/\S*", "/", text)).strip()
