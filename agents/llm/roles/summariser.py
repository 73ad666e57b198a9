"""The summariser: what a family of candidates has taught."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from asiarch.agents.llm.model import Call
from asiarch.agents.llm.prompts import Prompts
from asiarch.agents.llm.roles.answers import Answer, Paragraph, Sentence
from asiarch.agents.llm.roles.parts import Part, filled
from asiarch.agents.llm.settings import RoleSettings
from asiarch.agents.llm.text import fence, one_line

ROLE = "summariser"
LEAST = 256  # tokens of an answer
TEMPERATURE = 0.1


class SummariserAnswer(Answer):
    """What worked and what did not before the advice that follows from it."""

    worked: Annotated[list[Sentence], Field(max_length=5)]
    failed: Annotated[list[Sentence], Field(max_length=5)]
    next: Paragraph


@dataclass(frozen=True)
class Member:
    """A candidate of the family. `lesson` is its analysis's, or why it failed."""

    id: int
    parent: int | None
    name: str
    change: str
    loss: float | None  # validation, nats a token
    lesson: str = ""

    def text(self) -> str:
        """One line."""
        loss = "no result" if self.loss is None else f"loss {self.loss:.4f}"
        origin = "" if self.parent is None else f" from c{self.parent}"
        change, lesson = one_line(self.change), one_line(self.lesson)
        return f"c{self.id}{origin} {self.name}: {loss}. Change: {change}" + (
            f" Lesson: {lesson}" if lesson else ""
        )


@dataclass(frozen=True)
class Summary:
    """What a family has taught."""

    worked: tuple[str, ...]
    failed: tuple[str, ...]
    next: str

    def text(self) -> str:
        """For a prompt or a person, a line for each point."""
        lines = [f"Worked: {point}" for point in self.worked] + [f"Failed: {point}" for point in self.failed]
        return "\n".join([*lines, f"Next: {self.next}"])


def call(
    founder: int, turn: str, members: Sequence[Member], prompts: Prompts, settings: RoleSettings
) -> Call[SummariserAnswer]:
    """The question about the family that candidate `founder` began; in a small context its oldest go first.

    Raises LlmError (overlong) when an answer does not fit.
    """
    lines = [fence(member.text(), f"c{member.id}") for member in members[::-1]]
    parts = [Part("members", tuple(lines))]
    system, user, answer = filled(ROLE, {}, parts, prompts, settings.context, LEAST, settings.text_tokens)
    seed = settings.call_seed(ROLE, founder, turn)
    return Call(ROLE, founder, turn, system, user, SummariserAnswer, seed, TEMPERATURE, answer)


def result(answer: SummariserAnswer) -> Summary:
    """The summary that an answer holds."""
    return Summary(tuple(answer.worked), tuple(answer.failed), answer.next)
