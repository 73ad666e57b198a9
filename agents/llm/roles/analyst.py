"""The analyst: what a change did, whether its hypothesis held, what is lacking, and the lesson."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from asiarch.agents.llm.model import Call
from asiarch.agents.llm.prompts import Prompts
from asiarch.agents.llm.roles.answers import Answer, Paragraph, Sentence
from asiarch.agents.llm.roles.measured import Comparison
from asiarch.agents.llm.roles.parts import Part, filled
from asiarch.agents.llm.settings import RoleSettings
from asiarch.agents.llm.text import clean, fence, one_line

ROLE = "analyst"
LEAST = 256  # tokens of an answer
TEMPERATURE = 0.3
Held = Literal["yes", "no", "unclear"]


class AnalystAnswer(Answer):
    """The evidence before the verdict."""

    effect: Paragraph
    held: Held
    lacking: Paragraph
    lesson: Sentence


@dataclass(frozen=True)
class Analysis:
    """What the analyst found. `lacking` is what cards are searched by."""

    effect: str  # what the change did
    held: Held  # whether the hypothesis held
    lacking: str
    lesson: str

    def text(self) -> str:
        """For a prompt or a person, a line for each part."""
        return f"Effect: {self.effect}\nHypothesis held: {self.held}\nLacking: {self.lacking}\nLesson: {self.lesson}"

    def to_json(self) -> dict[str, Any]:
        """The fields."""
        return asdict(self)


def call(
    number: int,
    turn: str,
    program: str,
    parent_program: str | None,
    motivation: str,
    hypothesis: str,
    results: Comparison,
    prompts: Prompts,
    settings: RoleSettings,
) -> Call[AnalystAnswer]:
    """The question. In a small context the parent's program goes first, then the log, then the program.

    Raises LlmError (overlong) when not even the results fit.
    """
    fixed = {
        "motivation": fence(one_line(motivation, 600), "motivation"),
        "hypothesis": fence(one_line(hypothesis), "hypothesis"),
        "results": fence(clean(results.table()), "results"),
        "note": fence(one_line(clean(results.note)), "note") if results.note else "",
    }
    parts = [
        Part("program", (fence(program, "program"),), "Its program:"),
        Part(
            "log",
            (fence(clean(results.log), "log"),) if results.log else (),
            "The end of its log:",
            cuttable=True,
        ),
        Part("parent", (fence(parent_program, "parent"),) if parent_program else (), "Its parent's program:"),
    ]
    system, user, answer = filled(ROLE, fixed, parts, prompts, settings.context, LEAST, settings.text_tokens)
    seed = settings.call_seed(ROLE, number, turn)
    return Call(ROLE, number, turn, system, user, AnalystAnswer, seed, TEMPERATURE, answer)


def result(answer: AnalystAnswer) -> Analysis:
    """The analysis that an answer holds."""
    return Analysis(answer.effect, answer.held, answer.lacking, answer.lesson)
