"""The judge: a score from 1 to 10 for a program alone, on the scale that DeltaNet (5) and Gated DeltaNet (10) set.

It sees neither names nor results: programs come without comments and with numbered classes. Each is judged twice,
shown before and after the anchors, and the two are averaged. What its raw scores mean is measured on the anchors
themselves; a judge that cannot tell them apart gives no score.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Annotated, Literal

from pydantic import Field

from asiarch.agents.llm.model import Call
from asiarch.agents.llm.programs import anonymous
from asiarch.agents.llm.prompts import Prompts
from asiarch.agents.llm.roles.answers import Answer, Paragraph
from asiarch.agents.llm.roles.parts import filled
from asiarch.agents.llm.settings import RoleSettings
from asiarch.agents.llm.text import fence

ROLE = "judge"
LEAST = 256  # tokens of an answer
TEMPERATURE = 0.3
LOWEST, HIGHEST = 1.0, 10.0
_ROUNDING = 0.25  # of a raw score, the mean of four whole numbers
Order = Literal["first", "last"]  # where the candidate stands beside the anchors
ORDERS: tuple[Order, Order] = ("first", "last")
Points = Annotated[int, Field(ge=1, le=10)]


class JudgeAnswer(Answer):
    """The reasons before the points."""

    reasons: Paragraph
    innovation: Points
    complexity: Points
    correctness: Points
    efficiency: Points

    def raw(self) -> float:
        """The mean of the four."""
        return fmean((self.innovation, self.complexity, self.correctness, self.efficiency))


@dataclass(frozen=True)
class Anchor:
    """A program whose score is given: DeltaNet 5, Gated DeltaNet 10. `id` is its candidate's."""

    id: int
    name: str
    program: str
    score: float


@dataclass(frozen=True)
class Calibration:
    """score = intercept + slope * raw, by least squares over the anchors' answers; or why there is none.

    `error` is the standard deviation of a single judgement (the mean of both orders) around the anchors' scores, in
    points of the scale.
    """

    anchors: tuple[Anchor, ...]
    answers: tuple[tuple[str, float, float], ...]  # anchor's name, its raw score shown first, and last
    slope: float | None
    intercept: float
    error: float | None
    reason: str = ""  # why it gives no scores

    def score(self, raw: float) -> float | None:
        """The score of a raw one, kept within the scale; None where the judge is not calibrated."""
        if self.slope is None:
            return None
        return min(HIGHEST, max(LOWEST, self.intercept + self.slope * raw))


@dataclass(frozen=True)
class Judgement:
    """`score` on the anchors' scale, or None and the `reason`; `error` is the calibration's."""

    score: float | None
    error: float | None
    reason: str
    raw: tuple[float, float] | None = None  # with the candidate shown before, and after the anchors
    reasons: tuple[str, ...] = ()  # the judge's words, in the same order

    @property
    def disagreement(self) -> float | None:
        """How far the two orders lie apart, in raw points."""
        return None if self.raw is None else abs(self.raw[0] - self.raw[1])


def call(
    number: int,
    turn: str,
    order: Order,
    program: str,
    anchors: Sequence[Anchor],
    prompts: Prompts,
    settings: RoleSettings,
) -> Call[JudgeAnswer]:
    """The question, with turn `turn-first` or `turn-last`. Raises LlmError (overlong) when the programs do not fit."""
    candidate = f"The program to judge:\n{fence(anonymous(program), 'program')}"
    shown = "\n\n".join(
        f"A program of score {anchor.score:g}:\n{fence(anonymous(anchor.program), 'anchor')}"
        for anchor in anchors
    )
    programs = (candidate, shown) if order == "first" else (shown, candidate)
    values = {"programs": "\n\n".join(programs)}
    system, user, answer = filled(ROLE, values, (), prompts, settings.context, LEAST, settings.text_tokens)
    turn = f"{turn}-{order}"
    seed = settings.call_seed(ROLE, number, turn)
    return Call(ROLE, number, turn, system, user, JudgeAnswer, seed, TEMPERATURE, answer)


def calibrate(
    anchors: Sequence[Anchor], answers: Sequence[tuple[Anchor, JudgeAnswer, JudgeAnswer]]
) -> Calibration:
    """The calibration from the answers about the anchors: each shown first, and shown last.

    No scores come of it unless the raw scores rise with the given ones by more than two standard errors.
    """
    points = [(anchor.score, (first.raw() + last.raw()) / 2) for anchor, first, last in answers]
    kept = tuple((anchor.name, first.raw(), last.raw()) for anchor, first, last in answers)
    given, raw = [x for x, _ in points], [y for _, y in points]
    spread = sum((x - fmean(given)) ** 2 for x in given) if points else 0.0
    if spread == 0 or len(points) < 2:
        return Calibration(
            tuple(anchors), kept, None, 0.0, None, "the judge answered for fewer than two anchors"
        )
    # raw on given, not the reverse: the given scores are exact, the raw ones have the noise
    rise = sum((x - fmean(given)) * (y - fmean(raw)) for x, y in points) / spread
    level = fmean(raw) - rise * fmean(given)
    residual = sum((y - level - rise * x) ** 2 for x, y in points)
    noise = max(math.sqrt(residual / max(1, len(points) - 2)), _ROUNDING)
    if rise <= 2 * noise / math.sqrt(spread):
        words = ", ".join(f"{name} {(first + last) / 2:g}" for name, first, last in kept)
        return Calibration(
            tuple(anchors), kept, None, 0.0, None, f"the judge cannot tell the anchors apart: {words}"
        )
    return Calibration(tuple(anchors), kept, 1 / rise, -level / rise, noise / rise)


def result(first: JudgeAnswer, last: JudgeAnswer, calibration: Calibration) -> Judgement:
    """The judgement from the two orders."""
    raw = (first.raw(), last.raw())
    score = calibration.score(fmean(raw))
    reason = calibration.reason if score is None else ""
    return Judgement(score, calibration.error, reason, raw, (first.reasons, last.reasons))
