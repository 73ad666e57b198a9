"""Which known candidates become parents and references: the interface, the paper's policy, and none at all.

The paper's policy (ASI-Arch, 2025) keeps a pool of the 50 best: a parent is drawn from the first 10,
references from ranks 11 to 50, and the pool is refreshed after every 50 results. Before the first pool (the
cold start) every candidate that is known is as likely as another.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from asiarch.agents.lineage_policy import LineagePolicy
from asiarch.agents.proposer import KnownCandidate


class ParentPolicy(Protocol):
    """Draws from the known candidates, which are given in the order in which they were proposed."""

    @property
    def name(self) -> str:
        """The name by which make_policy knows it."""
        ...

    def parent(self, known: Sequence[KnownCandidate], rng: np.random.Generator) -> KnownCandidate | None:
        """The candidate to start from; None when there is nothing to start from."""
        ...

    def references(
        self, known: Sequence[KnownCandidate], rng: np.random.Generator, count: int
    ) -> tuple[KnownCandidate, ...]:
        """At most `count` different candidates to learn from."""
        ...


@dataclass(frozen=True)
class PaperPolicy:
    """The paper's policy. `refresh` and `cold_start` count results (candidates with a fitness)."""

    pool: int = 50
    parents: int = 10
    refresh: int = 50
    cold_start: int = 200
    name: str = "paper"

    def __post_init__(self) -> None:
        if not 1 <= self.parents <= self.pool:
            raise ValueError(f"policy: parents must be 1 to pool ({self.pool}), not {self.parents}")
        if self.refresh < 1 or self.cold_start < 0:
            raise ValueError(
                f"policy: refresh must be 1 or more, cold_start 0 or more, not {self.refresh}, "
                f"{self.cold_start}"
            )

    def ranked_pool(self, known: Sequence[KnownCandidate]) -> list[KnownCandidate]:
        """The best `pool` candidates at the last refresh, best first; empty in the cold start.

        The first pool is made when the cold start ends, the next ones `refresh` results later each.
        """
        results = [candidate for candidate in known if candidate.has_result]
        past_start = len(results) - self.cold_start
        if past_start < 0 or not results:
            return []
        at_refresh = self.cold_start + past_start // self.refresh * self.refresh
        # without a cold start there is no pool to keep until the first refresh: use what there is
        return _best(results[: at_refresh or len(results)])[: self.pool]

    def parent(self, known: Sequence[KnownCandidate], rng: np.random.Generator) -> KnownCandidate | None:
        """Uniform over the pool's first `parents`; in the cold start, over results and baselines."""
        return _draw(self.ranked_pool(known)[: self.parents] or _startable(known), rng)

    def references(
        self, known: Sequence[KnownCandidate], rng: np.random.Generator, count: int
    ) -> tuple[KnownCandidate, ...]:
        """Uniform over the pool's ranks after `parents`; in the cold start, over results and baselines."""
        pool = self.ranked_pool(known)
        return _sample(pool[self.parents :] if pool else _startable(known), rng, count)


@dataclass(frozen=True)
class RandomPolicy:
    """Every candidate with a result, and every baseline, is as likely as another: no selection."""

    name: str = "random"

    def parent(self, known: Sequence[KnownCandidate], rng: np.random.Generator) -> KnownCandidate | None:
        """Uniform over results and baselines."""
        return _draw(_startable(known), rng)

    def references(
        self, known: Sequence[KnownCandidate], rng: np.random.Generator, count: int
    ) -> tuple[KnownCandidate, ...]:
        """Uniform over results and baselines."""
        return _sample(_startable(known), rng, count)


def make_policy(
    name: str,
    islands: int = 5,
    spread: float = 0.25,
    pool: int = 50,
    parents: int = 10,
    refresh: int = 50,
    cold_start: int = 200,
) -> ParentPolicy:
    """The policy of that name: `islands` and `spread` are of lineage, the rest of paper.

    Raises ValueError, naming the known ones, when there is none of that name.
    """
    if name == "lineage":
        return LineagePolicy(islands, spread)
    if name == "paper":
        return PaperPolicy(pool, parents, refresh, cold_start)
    if name == "random":
        return RandomPolicy()
    raise ValueError(f"policy: no policy is named {name!r}; known are lineage, paper, random")


def _startable(known: Sequence[KnownCandidate]) -> list[KnownCandidate]:
    return [candidate for candidate in known if candidate.startable]


def _best(candidates: Sequence[KnownCandidate]) -> list[KnownCandidate]:
    return sorted(candidates, key=lambda candidate: (-(candidate.fitness or 0.0), candidate.id))


def _draw(candidates: Sequence[KnownCandidate], rng: np.random.Generator) -> KnownCandidate | None:
    return candidates[int(rng.integers(len(candidates)))] if candidates else None


def _sample(
    candidates: Sequence[KnownCandidate], rng: np.random.Generator, count: int
) -> tuple[KnownCandidate, ...]:
    # permutation, not choice: it also takes an empty list
    return tuple(candidates[int(index)] for index in rng.permutation(len(candidates))[:count])
