"""The researcher: the roles put together, as the campaign uses them.

Every function may be called from several threads. Each is a function of its arguments, the state of `rng`, and the
model's answers; the seed of each call comes from (campaign's seed, candidate, role, turn).
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from asiarch.agents.cognition import Card, Retriever
from asiarch.agents.llm.drafting import Desk, draw_cards, plan_new, repair_until_accepted
from asiarch.agents.llm.drafts import Attempt, Check, Draft, DraftFailed, Findings, Repaired
from asiarch.agents.llm.model import LlmError, Model
from asiarch.agents.llm.prompts import Prompts
from asiarch.agents.llm.roles import analyst, judge, planner, summariser
from asiarch.agents.llm.roles.analyst import Analysis
from asiarch.agents.llm.roles.judge import Anchor, Calibration, JudgeAnswer, Judgement
from asiarch.agents.llm.roles.measured import Comparison
from asiarch.agents.llm.roles.planner import Shown
from asiarch.agents.llm.roles.repair import Broken
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
        self.desk = Desk(model, prompts, settings)
        self.cards = tuple(cards)
        self._retriever = Retriever(self.cards) if cards else None
        self._fits: dict[str, bool] = {}

    def fits(self, parent: KnownCandidate) -> bool:
        """Whether a plan to change this program fits the context; it depends on the program alone."""
        program = parent.program
        if program not in self._fits:
            # no token is less than a byte: most programs need no counting, which takes milliseconds
            short = 4 * len(program.encode("utf-8", "replace")) < self.desk.settings.context
            self._fits[program] = short or planner.fits(parent, self.desk.prompts, self.desk.settings)
        return self._fits[program]

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
            number: the candidate's id. Calls are made as (planner | novelty, number, "0", "1", ...), and for the
                repairs of plan 0 as (repair, number, "0-0", "0-1", ...).
            parent: whose program is changed.
            references: other candidates to learn from.
            known: all that may have been seen, for the search for duplicates.
            seen: fingerprints (asiarch.agents.novelty) of every program that was proposed before.
            check: runs the checks in the sandbox.

        Returns:
            a draft; the program of one that is refused may be no Python.

        Raises:
            DraftFailed (an LlmError): the LLM gave no plan, or nothing that a program could be made of, or is
                unavailable, whatever it gave before.
            OnlyDuplicates (a NothingNew): every plan was a duplicate.
        """
        references = [one for one in references if one.id != parent.id]
        shown = Shown(
            parent=parent,
            references=references,
            analyses=context.analyses,
            motivations=context.motivations,
            lessons=context.lessons,
            cards=self._cards_for(parent, context, rng),
        )
        plan, first, broken, verdict, duplicates = plan_new(number, shown, known, seen, self.desk)
        findings = first.findings if not first.findings.accepted else check(first.program)
        first = replace(first, findings=findings)
        attempts, program, outcome, ended = (*duplicates, first), first.program, "accepted", ""
        if not findings.accepted:
            turns = [f"{first.turn}-{repair}" for repair in range(self.desk.settings.repair_tries)]
            repaired = self._repaired(
                number, replace(broken, findings=findings), seen, check, turns, attempts
            )
            attempts += repaired.attempts
            program, outcome, ended = repaired.program, repaired.outcome, repaired.ended
        if not program:
            raise DraftFailed(LlmError("invalid", f"no program came out: {ended}"), attempts)
        return Draft(
            program=program,
            plan=plan,
            parent=parent.id,
            saw=tuple(sorted({parent.id, *plan.shown_candidates, *verdict.beside})),
            novelty=verdict.reason,
            attempts=attempts,
            outcome="accepted" if outcome == "accepted" else "refused",
            ended=ended,
        )

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
            DraftFailed: the LLM is unavailable.
        """
        turns = [str(turn_offset + repair) for repair in range(self.desk.settings.repair_tries)]
        return self._repaired(number, Broken(program, findings, motivation), seen, check, turns, ())

    def analyse(
        self,
        number: int,
        program: str,
        parent_program: str | None,
        motivation: str,
        hypothesis: str,
        results: Comparison,
        turn: str = "0",
    ) -> Analysis:
        """What candidate `number`'s change did. Raises LlmError."""
        return analyst.result(
            self.desk.model.ask(
                analyst.call(
                    number,
                    turn,
                    program,
                    parent_program,
                    motivation,
                    hypothesis,
                    results,
                    self.desk.prompts,
                    self.desk.settings,
                )
            )
        )

    def calibrate(self, anchors: Sequence[Anchor]) -> Calibration:
        """How the judge scores programs whose scores are given, DeltaNet 5 and Gated DeltaNet 10; its calls have the
        anchors' ids. A calibration without a slope says why. Raises LlmError when the LLM is unavailable."""
        answers = []
        for turn in range(self.desk.settings.calibrations):
            for anchor in anchors:
                # not shown itself: its score would be read off, not judged
                others = [one for one in anchors if one.id != anchor.id]
                both = self._both_orders(anchor.id, f"calibration-{turn}", anchor.program, others)
                if isinstance(both, LlmError):
                    reason = f"no answer about {anchor.name} ({both.outcome}: {both})"
                    return Calibration(tuple(anchors), (), None, 0.0, None, reason)
                answers.append((anchor, *both))
        return judge.calibrate(anchors, answers)

    def judge(self, number: int, program: str, calibration: Calibration, turn: str = "0") -> Judgement:
        """A score from 1 to 10, or None and why not. Raises LlmError when the LLM is unavailable."""
        if calibration.slope is None:
            return Judgement(None, None, calibration.reason)
        both = self._both_orders(number, turn, program, calibration.anchors)
        if isinstance(both, LlmError):
            return Judgement(None, None, f"the LLM gave no answer ({both.outcome}: {both})")
        return judge.result(*both, calibration)

    def summarise(self, founder: int, members: Sequence[Member], turn: str) -> Summary:
        """What a family has taught; `founder` is its first candidate's id. Raises LlmError."""
        return summariser.result(
            self.desk.model.ask(
                summariser.call(founder, turn, members, self.desk.prompts, self.desk.settings)
            )
        )

    def _repaired(
        self,
        number: int,
        broken: Broken,
        seen: Container[str],
        check: Check,
        turns: Sequence[str],
        before: tuple[Attempt, ...],
    ) -> Repaired:
        try:
            return repair_until_accepted(number, broken, seen, check, turns, self.desk)
        except DraftFailed as error:
            raise DraftFailed(error, (*before, *error.attempts)) from error

    def _both_orders(
        self, number: int, turn: str, program: str, anchors: Sequence[Anchor]
    ) -> tuple[JudgeAnswer, JudgeAnswer] | LlmError:
        try:
            first, last = (
                self.desk.model.ask(
                    judge.call(number, turn, order, program, anchors, self.desk.prompts, self.desk.settings)
                )
                for order in judge.ORDERS
            )
        except LlmError as error:
            if error.outcome == "unavailable":
                raise
            return error
        return first, last

    def _cards_for(
        self, parent: KnownCandidate, context: Context, rng: np.random.Generator
    ) -> tuple[Card, ...]:
        """Cards for what the parent lacks; for one that was not analysed, for what it is."""
        analysis = context.analyses.get(parent.id)
        words = parent.name.replace("_", " ")
        lacking = analysis.lacking if analysis else f"{words} {context.motivations.get(parent.id, '')}"
        return draw_cards(self._retriever, self.cards, lacking, self.desk.settings.cards, rng)
