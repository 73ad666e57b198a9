from collections.abc import Callable

import pytest

from asiarch.agents.grammar import BASELINE_PROGRAMS, MixerProgram, emit, to_spec
from asiarch.agents.proposer import KnownCandidate

MakeKnown = Callable[..., KnownCandidate]


@pytest.fixture
def make_known() -> MakeKnown:
    """Makes a known candidate; a fitness makes it finished, who has no parent is a baseline."""

    def make(
        number: int,
        fitness: float | None = None,
        program: MixerProgram = BASELINE_PROGRAMS["delta_net"],
        status: str | None = None,
        parent: int | None = 0,
        seed_fitness: tuple[float, ...] = (),
    ) -> KnownCandidate:
        return KnownCandidate(
            id=number,
            name=f"candidate{number}",
            program=emit(program),
            spec=to_spec(program),
            fitness=fitness,
            loss=None,
            status=status or ("running" if fitness is None else "finished"),
            parent=None if number == 0 else parent,
            baseline=number == 0 or parent is None,
            seed_fitness=seed_fitness,
        )

    return make
