"""The control: programs of the grammar that no result has steered."""

from collections.abc import Container, Sequence
from dataclasses import dataclass

import numpy as np

from asiarch.agents.grammar.describe import program_name
from asiarch.agents.grammar.edits import draw_change
from asiarch.agents.grammar.emit import emit
from asiarch.agents.grammar.program import BASELINE_PROGRAMS, to_spec
from asiarch.agents.novelty import fingerprint
from asiarch.agents.proposer import KnownCandidate, NothingNew, Proposal

_ATTEMPTS = 100
_EDITS = (3, 10)  # the shortest and the longest walk


@dataclass(frozen=True)
class RandomProposer:
    """A walk of random edits from a random published program. Its programs have no parent, and it saw nothing."""

    name: str = "random"

    def propose(
        self, known: Sequence[KnownCandidate], rng: np.random.Generator, seen: Container[str]
    ) -> Proposal:
        """Propose a program that is new by fingerprint; raises NothingNew when every attempt gave a duplicate."""
        names = sorted(BASELINE_PROGRAMS)
        for _ in range(_ATTEMPTS):
            start = names[int(rng.integers(len(names)))]
            program = BASELINE_PROGRAMS[start]
            edits = []
            for _ in range(int(rng.integers(_EDITS[0], _EDITS[1] + 1))):
                name, change = draw_change(program, rng)
                program = change.program
                edits.append(name)
            motivation = f"{len(edits)} edits of {start} at random, as a control: no result has steered them."
            source = emit(program, motivation)
            if fingerprint(source) not in seen:
                return Proposal(
                    program=source,
                    name=program_name(program),
                    motivation=motivation,
                    parent=None,
                    edits=tuple(edits),
                    proposer=self.name,
                    spec=to_spec(program),
                    saw=(),
                )
        raise NothingNew(f"{_ATTEMPTS} random programs in a row had all been proposed before")
