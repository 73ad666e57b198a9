"""The loops of drafting: plan until it is new, check, repair until it is accepted or there is no use in going on."""

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from asiarch.agents.cognition import Card, Retriever
from asiarch.agents.llm.drafts import (
    Attempt,
    Check,
    DraftFailed,
    Findings,
    OnlyDuplicates,
    Plan,
    Refusal,
    Repaired,
)
from asiarch.agents.llm.model import LlmError, Model
from asiarch.agents.llm.programs import Block, EditError, apply, extract, syntax_error
from asiarch.agents.llm.prompts import Prompts
from asiarch.agents.llm.roles import novelty, planner, repair
from asiarch.agents.llm.roles.answers import MOST_CODE
from asiarch.agents.llm.roles.planner import BlockPlan, PlannerAnswer, Shown, WholePlan
from asiarch.agents.llm.roles.repair import BlockRepair, Broken, RepairAnswer, WholeRepair
from asiarch.agents.llm.settings import RoleSettings
from asiarch.agents.llm.text import fence, one_line
from asiarch.agents.proposer import KnownCandidate

_ALIKE = 20  # known programs that are compared one by one
_SEEN = "the program computes the same as one that was proposed before"


@dataclass(frozen=True)
class Desk:
    """What every call takes."""

    model: Model
    prompts: Prompts
    settings: RoleSettings


def plan_new(
    number: int,
    shown: Shown,
    known: Sequence[KnownCandidate],
    seen: Container[str],
    desk: Desk,
) -> tuple[Plan, Attempt, Broken, novelty.Verdict, tuple[Attempt, ...]]:
    """Plan until no candidate is repeated: the plan, its attempt, what a repair would start from, and those before.

    The attempt's findings are those of the answer alone (blocks, syntax): nothing was run. Raises DraftFailed,
    OnlyDuplicates.
    """
    duplicates: list[Attempt] = []
    for turn in range(desk.settings.plan_tries):
        try:
            call, base = planner.call(number, str(turn), shown, desk.prompts, desk.settings)
            answer = desk.model.ask(call)
        except LlmError as error:
            raise DraftFailed(error, tuple(duplicates)) from error
        plan = planner.result(answer, shown, call.user)
        program, text, findings = written(answer, base)
        try:
            verdict = _verdict(number, str(turn), program, plan, shown, known, seen, desk)
        except LlmError as error:
            raise DraftFailed(error, tuple(duplicates)) from error
        answered: Literal["plan", "duplicate"] = "duplicate" if duplicates else "plan"
        if verdict.new:
            broken = Broken(program or base, findings, plan.motivation, "" if program else text)
            return (
                plan,
                Attempt("planner", str(turn), answered, program, text, findings),
                broken,
                verdict,
                tuple(duplicates),
            )
        refused = Findings((Refusal("duplicate", verdict.reason),))
        duplicates.append(Attempt("planner", str(turn), answered, program, text, refused))
        said = fence(f"{plan.name}: {plan.change}\nRefused: {verdict.reason}", "last plan")
        shown = shown.again(f"Your last plan was no new one. Propose a change of another kind.\n{said}")
    last = one_line(duplicates[-1].findings.refusals[0].message)
    text = f"{len(duplicates)} plans in a row were duplicates; the last: {last}"
    raise OnlyDuplicates(text, tuple(duplicates))


def repair_until_accepted(
    number: int,
    broken: Broken,
    seen: Container[str],
    check: Check,
    turns: Sequence[str],
    desk: Desk,
) -> Repaired:
    """Repair until the check accepts, the same failure comes again, the turns are used up, or the LLM fails.

    Raises DraftFailed when the LLM is unavailable.
    """
    attempts: list[Attempt] = []
    failures = {broken.findings.signature()}
    tried = {novelty.print_of(broken.program): broken.findings} if not broken.answer else {}
    program, change = "" if broken.answer else broken.program, ""
    for turn in turns:
        try:
            call, base = repair.call(number, turn, broken, desk.prompts, desk.settings)
            answer = desk.model.ask(call)
        except LlmError as error:
            if error.outcome == "unavailable":
                raise DraftFailed(error, tuple(attempts)) from error
            ended = f"the LLM gave no valid repair ({error.outcome}: {one_line(str(error))})"
            return Repaired(program, change, tuple(attempts), "refused", ended)
        new, text, findings = written(answer, base)
        if findings.accepted:
            findings = _checked(new, seen, tried, check)
        attempts.append(Attempt("repair", turn, "refusal", new, text, findings))
        program, change = new or program, answer.change if new else change
        if findings.accepted:
            return Repaired(program, change, tuple(attempts), "accepted", "")
        if findings.signature() in failures:
            return Repaired(program, change, tuple(attempts), "refused", "the same failure came twice")
        failures.add(findings.signature())
        broken = Broken(new or broken.program, findings, broken.motivation, "" if new else text)
    return Repaired(program, change, tuple(attempts), "refused", f"{len(attempts)} repairs did not mend it")


def written(answer: PlannerAnswer | RepairAnswer, base: str) -> tuple[str, str, Findings]:
    """The program of an answer, what the answer held, and what is wrong with it before anything is run.

    Without a program, where blocks do not apply to `base`, the first is empty.
    """
    if isinstance(answer, BlockPlan | BlockRepair):
        blocks = [Block(block.search, block.replace) for block in answer.blocks]
        text = "\n".join(f"SEARCH\n{block.search}\nREPLACE\n{block.replace}" for block in blocks)
        try:
            program = apply(base, blocks)
        except EditError as error:
            return "", text, Findings((Refusal("edits", str(error)),))
    else:
        assert isinstance(answer, WholePlan | WholeRepair)
        text = answer.program
        program = extract(text)
    if len(program) > MOST_CODE:
        return (
            "",
            "",
            Findings(
                (Refusal("edits", f"the program has over {MOST_CODE:,} characters; write a short one"),)
            ),
        )
    problem = syntax_error(program)
    return program, text, Findings((Refusal("syntax", problem),) if problem else ())


def draw_cards(
    retriever: Retriever | None, cards: Sequence[Card], lacking: str, count: int, rng: np.random.Generator
) -> tuple[Card, ...]:
    """`count` cards of the first three times as many for what is lacking, drawn by their scores, the best first.

    A draw, since the best alone would be the same for every child of a parent. Any cards where none is found.
    """
    count = min(count, len(cards))
    if retriever is None or not count:
        return ()
    hits = retriever.search(lacking, 3 * count)
    if not hits:
        return tuple(cards[int(place)] for place in sorted(rng.permutation(len(cards))[:count]))
    scores = np.array([hit.score for hit in hits])
    drawn = rng.choice(len(hits), size=min(count, len(hits)), replace=False, p=scores / scores.sum())
    return tuple(hits[int(place)].card for place in sorted(drawn))


def _verdict(
    number: int,
    turn: str,
    program: str,
    plan: Plan,
    shown: Shown,
    known: Sequence[KnownCandidate],
    seen: Container[str],
    desk: Desk,
) -> novelty.Verdict:
    """Whether the plan is new. An LLM without a valid verdict stops no plan; raises LlmError when it is unavailable.

    What others proposed meanwhile, `seen`, is asked last: a draft that is made again once more is seen then asks the
    same questions as before, up to the plan that has become a duplicate.
    """
    near = novelty.nearest(program, plan, known, shown.motivations, max(_ALIKE, desk.settings.neighbours))
    proposed = (own := novelty.print_of(program)) is not None and own in seen
    # a known one that was not proposed as it is now was repaired; reading all takes seconds where they are thousands
    if equal := novelty.equal_to(program, known if proposed else near):
        return novelty.Verdict(
            False, equal.id, f"the program computes the same as c{equal.id} ({equal.name})"
        )
    verdict = _judged(number, turn, program, plan, shown, near[: desk.settings.neighbours], desk)
    if verdict.new and proposed:
        return replace(verdict, new=False, reason=_SEEN)
    return verdict


def _judged(
    number: int,
    turn: str,
    program: str,
    plan: Plan,
    shown: Shown,
    near: Sequence[KnownCandidate],
    desk: Desk,
) -> novelty.Verdict:
    """The LLM's verdict, or why there is none."""
    if not near:
        return novelty.Verdict(True, None, "no program is equal; the LLM was not asked")
    try:
        call = novelty.call(number, turn, program, plan, near, shown.motivations, desk.prompts, desk.settings)
        return novelty.result(desk.model.ask(call), near)
    except LlmError as error:
        if error.outcome == "unavailable":
            raise
        return novelty.Verdict(True, None, f"no program is equal; the LLM gave no verdict ({error.outcome})")


def _checked(program: str, seen: Container[str], tried: dict[str | None, Findings], check: Check) -> Findings:
    """The check's findings. A program of this chain has those that it had; one that was proposed is a duplicate."""
    own = novelty.print_of(program)
    if own not in tried:
        tried[own] = check(program)
    # a refused one gets its refusal, proposed before or not, for the reason that _verdict has
    if tried[own].accepted and own in seen:
        return Findings((Refusal("duplicate", _SEEN),))
    return tried[own]
