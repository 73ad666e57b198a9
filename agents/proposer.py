"""The interface between the campaign and whoever proposes candidates."""

from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np


class NothingNew(Exception):
    """A proposer found no program that has not been proposed before; the text says how hard it tried."""


@dataclass(frozen=True)
class KnownCandidate:
    """What a proposer may know of a candidate."""

    id: int
    name: str
    program: str  # the source of architecture.py
    spec: dict[str, Any]  # what its proposer needs to edit it again; {} when nothing
    fitness: float | None  # higher is better; None until there is a result
    loss: float | None  # validation loss, nats a token
    status: str  # "finished" once its fitness counts
    parent: int | None
    baseline: bool = False
    seed_fitness: tuple[float, ...] = ()  # the fitness of each seed's trial alone, in the seeds' order

    @property
    def has_result(self) -> bool:
        """Whether its fitness may steer the search."""
        return self.status == "finished" and self.fitness is not None

    @property
    def startable(self) -> bool:
        """Whether a proposal may start from it. A baseline may before its result: at first nothing else is there."""
        return self.has_result or (self.baseline and self.status not in ("refused", "failed", "stopped"))


@dataclass(frozen=True)
class Proposal:
    """A new program, why it is tried, and what it rests on."""

    program: str  # the source of architecture.py
    name: str
    motivation: str  # what changed and why it may help
    parent: int | None
    edits: tuple[str, ...]  # the names of the changes, in their order
    proposer: str
    spec: dict[str, Any]  # JSON; becomes the candidate's spec
    saw: tuple[int, ...]  # ids of the candidates whose results were used
    notes: dict[str, Any] = field(default_factory=dict)  # JSON; what its proposer alone has to say of it


class Proposer(Protocol):
    """Who proposes. The same arguments and the same state of `rng` give the same proposal."""

    @property
    def name(self) -> str:
        """The name under which its proposals are counted."""
        ...

    def propose(
        self, known: Sequence[KnownCandidate], rng: np.random.Generator, seen: Container[str]
    ) -> Proposal:
        """Propose a program whose fingerprint is not in `seen`; raises NothingNew when none is found."""
        ...
