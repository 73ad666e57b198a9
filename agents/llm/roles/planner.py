"""The planner: from a parent, its results, others' lessons and published techniques to a new program."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import Field

from asiarch.agents.cognition import Card
from asiarch.agents.llm.drafts import Plan
from asiarch.agents.llm.model import Call, LlmError
from asiarch.agents.llm.programs import compact
from asiarch.agents.llm.prompts import Prompts
from asiarch.agents.llm.roles.analyst import Analysis
from asiarch.agents.llm.roles.answers import Answer, Blocks, Code, Mark, Name, Paragraph, Sentence
from asiarch.agents.llm.roles.parts import Part, contract, filled
from asiarch.agents.llm.settings import RoleSettings
from asiarch.agents.llm.text import fence, one_line, tokens
from asiarch.agents.proposer import KnownCandidate

ROLE = "planner"
_WORDS = 250  # tokens of an answer beside its program
FORMS = {
    "whole": "Give the whole new file as `program`.",
    "blocks": (
        "Give `blocks`: each replaces one place of the program. `search` is copied exactly from it, whole lines with "
        "their indentation, and long enough to be there once; `replace` is what stands there afterwards."
    ),
}


class PlannerAnswer(Answer):
    """What to try, before how."""

    motivation: Paragraph
    hypothesis: Sentence
    change: Sentence
    used: Annotated[list[Mark], Field(max_length=6)]
    name: Name


class WholePlan(PlannerAnswer):
    """A plan with the whole program."""

    program: Code


class BlockPlan(PlannerAnswer):
    """A plan with what to replace in the parent's program."""

    blocks: Blocks


@dataclass(frozen=True)
class Shown:
    """What a plan is made from. `problem` says what was wrong with the last plan, if there was one."""

    parent: KnownCandidate
    references: Sequence[KnownCandidate]
    analyses: Mapping[int, Analysis]
    motivations: Mapping[int, str]
    lessons: str
    cards: Sequence[Card]
    problem: str = ""

    def again(self, problem: str) -> "Shown":
        """The same, with what was wrong with the last plan."""
        return replace(self, problem=problem)


def call(
    number: int, turn: str, shown: Shown, prompts: Prompts, settings: RoleSettings
) -> tuple[Call[PlannerAnswer], str]:
    """The question, and the parent's program as it was shown, to which blocks apply.

    The contract's later sections are left out where they would take over a fifth of the context. What does not fit
    then goes in this order: the references' programs, cards, references, lessons, the analysis, what was wrong with
    the last plan; and where that is not enough, the comments of the parent's program.

    Raises LlmError (overlong) when even that does not fit.
    """
    program = shown.parent.program
    try:
        return _call(number, turn, program, shown, prompts, settings), program
    except LlmError:
        program = compact(program)
        return _call(number, turn, program, shown, prompts, settings), program


def fits(parent: KnownCandidate, prompts: Prompts, settings: RoleSettings) -> bool:
    """Whether a plan to change this program can be asked for at all."""
    try:
        call(0, "0", Shown(parent, (), {}, {}, "", ()), prompts, settings)
    except LlmError:
        return False
    return True


def _call(
    number: int, turn: str, program: str, shown: Shown, prompts: Prompts, settings: RoleSettings
) -> Call[PlannerAnswer]:
    fixed = {
        "contract": contract(prompts, settings.context // 5),
        "form": FORMS[settings.edits],
        "parent": fence(program, f"c{shown.parent.id}"),
        "results": fence(_results(shown.parent), "results"),
    }
    parts, least = _parts(shown), answer_tokens(program, settings)
    system, user, answer = filled(
        ROLE, fixed, parts, prompts, settings.context, least, settings.program_tokens
    )
    form = WholePlan if settings.edits == "whole" else BlockPlan
    seed = settings.call_seed(ROLE, number, turn)
    return Call(ROLE, number, turn, system, user, form, seed, settings.temperature, answer)


def result(answer: PlannerAnswer, shown: Shown, user: str) -> Plan:
    """The plan that an answer holds. Of what it says it used, what is not in the prompt `user` is left out."""
    cards = tuple(card.id for card in shown.cards if f"[{card.id}] " in user)
    around = {f"c{one.id}": one.id for one in (shown.parent, *shown.references)}
    candidates = {mark: number for mark, number in around.items() if f"<<{mark} " in user}
    used = list(dict.fromkeys(answer.used))
    return Plan(
        name=answer.name,
        motivation=answer.motivation,
        hypothesis=answer.hypothesis,
        change=answer.change,
        used_cards=tuple(mark for mark in used if mark in cards),
        used_candidates=tuple(candidates[mark] for mark in used if mark in candidates),
        shown_cards=cards,
        shown_candidates=tuple(candidates.values()),
    )


def answer_tokens(program: str, settings: RoleSettings) -> int:
    """The least room for an answer: the program and a fifth more, or a quarter of it in blocks, and the words."""
    code = tokens(program) * 6 // 5 if settings.edits == "whole" else tokens(program) // 4
    return min(settings.program_tokens, code + _WORDS)


def _parts(shown: Shown) -> list[Part]:
    """The optional parts in the order of need."""
    analysis = shown.analyses.get(shown.parent.id)
    summaries = [_reference(one, shown) for one in shown.references]
    programs = [fence(one.program, f"c{one.id}") for one in shown.references]
    return [
        Part("problem", (shown.problem,) if shown.problem else ()),
        Part(
            "analysis",
            (fence(analysis.text(), "analysis"),) if analysis else (),
            "What its analysis found:",
            True,
        ),
        Part(
            "lessons",
            (fence(shown.lessons, "lessons"),) if shown.lessons else (),
            "What its family has taught:",
            True,
        ),
        Part("references", tuple(summaries), "Other candidates:"),
        Part(
            "cards",
            tuple(fence(card.text(), "card") for card in shown.cards),
            "Published techniques that may help:",
        ),
        Part("reference_programs", tuple(programs), "Programs of other candidates:"),
    ]


def _results(candidate: KnownCandidate) -> str:
    fitness = "none yet" if candidate.fitness is None else f"{candidate.fitness:.4f}"
    loss = "none yet" if candidate.loss is None else f"{candidate.loss:.4f} nats a token"
    return f"{candidate.name}: fitness {fitness} (0.5 is the baseline's, higher is better); validation loss {loss}"


def _reference(candidate: KnownCandidate, shown: Shown) -> str:
    lines = [_results(candidate)]
    if motivation := shown.motivations.get(candidate.id):
        lines.append(f"Motivation: {one_line(motivation)}")
    if analysis := shown.analyses.get(candidate.id):
        lines.append(f"Lesson: {analysis.lesson}")
    return fence("\n".join(lines), f"c{candidate.id}")
