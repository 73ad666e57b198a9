"""The repair of a program that was refused by the check, or that failed in training."""

from dataclasses import dataclass, replace

from asiarch.agents.llm.drafts import Findings
from asiarch.agents.llm.model import Call, LlmError
from asiarch.agents.llm.programs import compact
from asiarch.agents.llm.prompts import Prompts
from asiarch.agents.llm.roles.answers import Answer, Blocks, Code, Sentence
from asiarch.agents.llm.roles.parts import Part, contract, filled
from asiarch.agents.llm.roles.planner import FORMS, answer_tokens
from asiarch.agents.llm.settings import RoleSettings
from asiarch.agents.llm.text import clean, fence, one_line

ROLE = "repair"
TEMPERATURE = 0.3


class RepairAnswer(Answer):
    """The cause before the cure."""

    cause: Sentence
    change: Sentence


class WholeRepair(RepairAnswer):
    """A repair with the whole program."""

    program: Code


class BlockRepair(RepairAnswer):
    """A repair with what to replace."""

    blocks: Blocks


@dataclass(frozen=True)
class Broken:
    """A program with what is wrong with it. `answer` is what was to become a program, where that failed."""

    program: str  # as it is: blocks apply to it
    findings: Findings
    motivation: str = ""
    answer: str = ""


def call(
    number: int, turn: str, broken: Broken, prompts: Prompts, settings: RoleSettings
) -> tuple[Call[RepairAnswer], str]:
    """The question, and the program as it was shown, to which blocks apply.

    In a small context the motivation goes first, then what failed to become a program, then the ends of findings; the
    program then comes without comments. Raises LlmError (overlong) when even that does not fit.
    """
    try:
        return _call(number, turn, broken, prompts, settings), broken.program
    except LlmError:
        bare = replace(broken, program=compact(broken.program))
        return _call(number, turn, bare, prompts, settings), bare.program


def _call(
    number: int, turn: str, broken: Broken, prompts: Prompts, settings: RoleSettings
) -> Call[RepairAnswer]:
    fixed = {
        "contract": contract(prompts, settings.context // 5),
        "form": FORMS[settings.edits],
        "program": fence(broken.program, "program"),
    }
    motivation = (fence(one_line(broken.motivation, 600), "motivation"),) if broken.motivation else ()
    parts = [
        Part("findings", _texts(broken.findings), cuttable=True),
        Part(
            "answer",
            (fence(broken.answer, "answer"),) if broken.answer else (),
            "The answer that failed:",
            True,
        ),
        Part("motivation", motivation, "What the program tries:"),
    ]
    least = answer_tokens(broken.program, settings)
    system, user, answer = filled(
        ROLE, fixed, parts, prompts, settings.context, least, settings.program_tokens
    )
    form = WholeRepair if settings.edits == "whole" else BlockRepair
    seed = settings.call_seed(ROLE, number, turn)
    return Call(ROLE, number, turn, system, user, form, seed, TEMPERATURE, answer)


def _texts(findings: Findings) -> tuple[str, ...]:
    return tuple(fence(clean(refusal.message), f"finding {refusal.name}") for refusal in findings.refusals)
