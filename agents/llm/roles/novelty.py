"""Novelty: is a plan what another candidate has tried? Equal programs are found without the LLM."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Literal

import bm25s
import Stemmer
from pydantic import StringConstraints

from asiarch.agents.llm.drafts import Plan
from asiarch.agents.llm.model import Call
from asiarch.agents.llm.programs import compact
from asiarch.agents.llm.prompts import Prompts
from asiarch.agents.llm.roles.answers import Answer, Sentence
from asiarch.agents.llm.roles.parts import Part, filled
from asiarch.agents.llm.settings import RoleSettings
from asiarch.agents.llm.text import fence, one_line
from asiarch.agents.novelty import fingerprint
from asiarch.agents.proposer import KnownCandidate

ROLE = "novelty"
LEAST = 256  # tokens of an answer
TEMPERATURE = 0.0
# docstrings and comments; a search word too many does no harm, and parsing thousands of programs takes minutes
_TEXT = re.compile(r'"""[\s\S]*?"""|#.*')


class NoveltyAnswer(Answer):
    """The reason before the verdict. `of` is the mark of the candidate that it repeats, or none."""

    reason: Sentence
    of: Annotated[str, StringConstraints(pattern=r"^(none|c[0-9]{1,9})$")]
    verdict: Literal["new", "duplicate"]


@dataclass(frozen=True)
class Verdict:
    """Whether a plan is new, the candidate that it repeats where one is named, why, and what it was held beside."""

    new: bool
    of: int | None
    reason: str
    beside: tuple[int, ...] = ()


def print_of(program: str) -> str | None:
    """The program's fingerprint; None when it cannot be parsed."""
    try:
        return fingerprint(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def equal_to(program: str, known: Sequence[KnownCandidate]) -> KnownCandidate | None:
    """The first known candidate with the same program, by fingerprint."""
    own = print_of(program)
    return next((one for one in known if own is not None and _known_print(one.program) == own), None)


def nearest(
    program: str, plan: Plan, known: Sequence[KnownCandidate], motivations: Mapping[int, str], count: int
) -> tuple[KnownCandidate, ...]:
    """The `count` candidates whose motivation and program share most with these, by BM25, the nearest first."""
    if not known or count < 1:
        return ()
    index = bm25s.BM25(method="lucene", k1=1.5, b=0.75, dtype="float64", backend="numpy")
    index.index(
        [[*_code_words(one.program), *_words(motivations.get(one.id, ""))] for one in known],
        show_progress=False,
    )
    words = [*_code_words(program), *_words(f"{plan.motivation} {plan.change}")]
    if not index.get_tokens_ids(words):
        return ()
    scored = zip(index.get_scores(words).tolist(), known, strict=True)
    hits = sorted((pair for pair in scored if pair[0] > 0), key=lambda pair: (-pair[0], pair[1].id))
    return tuple(one for _, one in hits[:count])


def call(
    number: int,
    turn: str,
    program: str,
    plan: Plan,
    near: Sequence[KnownCandidate],
    motivations: Mapping[int, str],
    prompts: Prompts,
    settings: RoleSettings,
) -> Call[NoveltyAnswer]:
    """The question. In a small context the programs go first, the least near before the others."""
    fixed = {"plan": fence(f"{one_line(plan.motivation, 600)}\nChange: {plan.change}", "plan")}
    motives = [fence(one_line(motivations.get(one.id, "") or one.name, 400), f"c{one.id}") for one in near]
    parts = [
        Part("motivations", tuple(motives)),
        Part("program", (fence(compact(program), "program"),), "The new program:"),
        Part("programs", tuple(fence(compact(one.program), f"c{one.id}") for one in near), "Their programs:"),
    ]
    system, user, answer = filled(ROLE, fixed, parts, prompts, settings.context, LEAST, settings.text_tokens)
    seed = settings.call_seed(ROLE, number, turn)
    return Call(ROLE, number, turn, system, user, NoveltyAnswer, seed, TEMPERATURE, answer)


def result(answer: NoveltyAnswer, near: Sequence[KnownCandidate]) -> Verdict:
    """The verdict. One that names a candidate that was not shown names none."""
    marks = {f"c{one.id}": one.id for one in near}
    return Verdict(answer.verdict == "new", marks.get(answer.of), answer.reason, tuple(marks.values()))


@lru_cache(maxsize=4096)
def _known_print(program: str) -> str | None:
    return print_of(program)


@lru_cache(maxsize=4096)
def _code_words(program: str) -> tuple[str, ...]:
    return tuple(re.findall(r"[A-Za-z_]\w+", _TEXT.sub("", program)))


def _words(text: str) -> list[str]:
    (words,) = bm25s.tokenize(
        [text], stopwords="en", stemmer=Stemmer.Stemmer("english"), return_ids=False, show_progress=False
    )
    return list(words)
