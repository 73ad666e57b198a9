"""The default policy: Thompson sampling over the lineage, with families as islands.

A parent is the best candidate of one draw from the posterior of all qualities (see asiarch.agents.lineage), so each
is chosen as often as it is likely to be the best: evidence counts, from seeds and from relatives, and one lucky score
does not. Alone that soon works on a single family. A share `spread` of parents is therefore the champion of one of
the `islands` best families of the draw, each as likely as another. References are those champions: what crosses over
from them is the islands' migration.

A family is a child of a baseline with all that descends from it; a baseline alone is one too, and so is a program
that was proposed without a parent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from asiarch.agents.lineage import Lineage, fit_lineage
from asiarch.agents.proposer import KnownCandidate

_Evidence = tuple[tuple[int, tuple[float, ...]], ...]  # for each candidate its parent's place and its scores


@dataclass(frozen=True)
class LineagePolicy:
    """`islands`: families bred beside one another. `spread`: the share of parents drawn from all of them."""

    islands: int = 5
    spread: float = 0.25
    name: str = "lineage"

    def __post_init__(self) -> None:
        if self.islands < 1 or not 0 <= self.spread <= 1:
            raise ValueError(
                f"policy: islands must be 1 or more and spread 0 to 1, not {self.islands}, {self.spread}"
            )

    def parent(self, known: Sequence[KnownCandidate], rng: np.random.Generator) -> KnownCandidate | None:
        """The best of a draw, or the champion of one of its best families."""
        champions = _champions(_drawn_order(known, rng), families(known))[: self.islands]
        if not champions:
            return None
        return champions[int(rng.integers(len(champions))) if rng.random() < self.spread else 0]

    def references(
        self, known: Sequence[KnownCandidate], rng: np.random.Generator, count: int
    ) -> tuple[KnownCandidate, ...]:
        """Champions of a draw's best families in random order; where families are few, the next best as well."""
        order = _drawn_order(known, rng)
        champions = _champions(order, families(known))[: self.islands]
        ids = {champion.id for champion in champions}
        rest = [candidate for candidate in order if candidate.id not in ids]
        chosen = [*champions, *rest][: max(self.islands, count)]
        return tuple(chosen[int(place)] for place in rng.permutation(len(chosen))[:count])


def families(known: Sequence[KnownCandidate]) -> dict[int, int]:
    """For each candidate the id of its family's founder; `known` is in the order of proposal."""
    baselines = {candidate.id for candidate in known if candidate.baseline}
    founders: dict[int, int] = {}
    for candidate in known:
        inherits = candidate.parent in founders and candidate.parent not in baselines
        founders[candidate.id] = founders[candidate.parent] if inherits else candidate.id  # type: ignore[index]
    return founders


def _champions(order: Sequence[KnownCandidate], founders: Mapping[int, int]) -> list[KnownCandidate]:
    """The first candidate of each family in `order`."""
    first: dict[int, KnownCandidate] = {}
    for candidate in order:
        first.setdefault(founders[candidate.id], candidate)
    return list(first.values())


def _drawn_order(known: Sequence[KnownCandidate], rng: np.random.Generator) -> list[KnownCandidate]:
    """Who may be a parent, the best of a draw from the posterior first; in any order before there are two results."""
    candidates = [candidate for candidate in known if candidate.startable]
    places = {candidate.id: place for place, candidate in enumerate(candidates)}
    evidence = tuple(
        (-1 if candidate.parent is None else places.get(candidate.parent, -1), candidate.seed_fitness)
        for candidate in candidates
    )
    if sum(bool(scores) for _, scores in evidence) < 2:
        return [candidates[int(place)] for place in rng.permutation(len(candidates))]
    qualities = _fitted(evidence).sample(rng)
    return [candidates[place] for place in np.argsort(-qualities, kind="stable").tolist()]


@lru_cache(maxsize=4)
def _fitted(evidence: _Evidence) -> Lineage:
    # a proposal asks several times with the same results
    return fit_lineage([parent for parent, _ in evidence], [scores for _, scores in evidence])
