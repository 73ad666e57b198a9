"""The researcher: the roles put together, as the campaign uses them.

Every function may be called from several threads. Each is a function of its arguments, the state of `rng`, and the
model's answers; the seed of each call comes from (campaign's seed, candidate, role, turn).
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from asiarch.agents.cognition import Card
from asiarch.agents.llm.drafts import Check, Draft, Findings, Repaired
from asiarch.agents.llm.model import Model
from asiarch.agents.llm.prompts import Prompts
from asiarch.agents.llm.roles.analyst import Analysis
from asiarch.agents.llm.roles.judge import Anchor, Calibration, Judgement
from asiarch.agents.llm.roles.measured import Comparison
from asiarch.agents.llm.roles.summariser import Member, Summary
from asiarch.agents.llm.settings import RoleSettings
from asiarch.agents.proposer import KnownCandidate


@dataclass(frozen=True)
class Context:
    """What a draft may know beyond the programs, by the candidates' ids."""

    analyses: Mapping[int, Analysis] = field(default_factory=dict)
    motivations: Mapping[int, str] = field(default_factory=dict)
    lessons: str = ""  # what the parent's family has taught: a Summary's text


class Researcher:
    """The LLM in its roles. `cards` may be empty: plans are then made without the cognition base."""

    def __init__(self, model: Model, prompts: Prompts, cards: Sequence[Card], settings: RoleSettings) -> None:
        self.model = model
        self.prompts = prompts
        self.settings = settings

    def draft(
        self,
        number: int,
        parent: KnownCandidate,
        references: Sequence[KnownCandidate],
        context: Context,
        known: Sequence[KnownCandidate],
        rng: np.random.Generator,
        seen: Container[str],
        check: Check,
    ) -> Draft:
        """A new program for candidate `number`, checked, and repaired where it was refused.

        Args:
            number: the candidate's id; calls are made as (planner | novelty | repair, number, "0", "1", ...).
            parent: whose program is changed.
            references: other candidates to learn from.
            known: all that may have been seen, for the search for duplicates.
            seen: fingerprints (asiarch.agents.novelty) of every program that was proposed before.
            check: runs the checks in the sandbox.

        Raises:
            DraftFailed (an LlmError): the LLM gave no plan, or is unavailable, whatever it gave before.
            OnlyDuplicates (a NothingNew): every plan was a duplicate.
        """
        raise NotImplementedError

    def repair(
        self,
        number: int,
        program: str,
        findings: Findings,
        seen: Container[str],
        check: Check,
        *,
        motivation: str = "",
        turn_offset: int = 0,
    ) -> Repaired:
        """Repair a program that was refused, or that failed in training (a Refusal "training" with the log's end).

        Args:
            motivation: why the program was tried, so that a repair does not undo it.
            turn_offset: how many repairs this candidate has had (Draft.repairs).

        Raises:
            DraftFailed: the LLM is unavailable, or gave no valid answer to the first repair.
        """
        raise NotImplementedError

    def analyse(
        self,
        number: int,
        parent_program: str | None,
        program: str,
        motivation: str,
        hypothesis: str,
        results: Comparison,
        turn: str = "0",
    ) -> Analysis:
        """What the change did. Raises LlmError."""
        raise NotImplementedError

    def calibrate(self, anchors: Sequence[Anchor]) -> Calibration:
        """How the judge scores programs whose scores are given. Raises LlmError when the LLM is unavailable."""
        raise NotImplementedError

    def judge(self, number: int, program: str, calibration: Calibration, turn: str = "0") -> Judgement:
        """A score from 1 to 10, or None and why not. Raises LlmError when the LLM is unavailable."""
        raise NotImplementedError

    def summarise(self, founder: int, members: Sequence[Member], turn: str) -> Summary:
        """What a family has taught; `founder` is its first candidate's id. Raises LlmError."""
        raise NotImplementedError
