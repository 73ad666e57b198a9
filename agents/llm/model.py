"""How a role asks the LLM: one call, answered in its schema or with an error that says why not."""

from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

from pydantic import BaseModel

Answer = TypeVar("Answer", bound=BaseModel)

# invalid: not in the schema, twice. truncated: cut at max_tokens or where it went in circles, twice. overlong: the
# question does not fit the context beside an answer. unavailable: no server answers
Outcome = Literal["invalid", "truncated", "overlong", "unavailable"]


@dataclass(frozen=True)
class Call(Generic[Answer]):
    """A question to the LLM. (role, candidate, turn) is unique in a campaign."""

    role: str  # who asks: planner, repair, novelty, analyst, judge, summariser
    candidate: int  # whom it is about
    turn: str  # which call of this role for this candidate it is: "0", "1", "swap-1"
    system: str
    user: str
    answer: type[Answer]  # its JSON schema is enforced in decoding; then it validates
    seed: int
    temperature: float
    max_tokens: int


class LlmError(Exception):
    """The LLM gave no valid answer, after one retry with another seed, or there is no LLM to ask."""

    def __init__(self, outcome: Outcome, detail: str) -> None:
        super().__init__(detail)
        self.outcome: Outcome = outcome


class Model(Protocol):
    """Whom the roles ask. Threads may ask at the same time."""

    def ask(self, call: Call[Answer]) -> Answer:
        """The validated answer.

        Raises:
            LlmError: there is none; its `outcome` says why.
        """
        ...
