"""The proposer without an LLM: draws a parent, edits its program, and refuses what was proposed before."""

from collections.abc import Container, Sequence
from dataclasses import dataclass, field, fields

import numpy as np

from asiarch.agents.grammar.describe import program_name
from asiarch.agents.grammar.edits import Change, cross, draw_change
from asiarch.agents.grammar.emit import emit
from asiarch.agents.grammar.program import MixerProgram, from_spec, is_spec, to_spec
from asiarch.agents.novelty import fingerprint
from asiarch.agents.policy import ParentPolicy
from asiarch.agents.proposer import KnownCandidate, NothingNew, Proposal

_EDIT_COUNTS = (0.7, 0.2, 0.1)  # how likely one, two, three edits are
_CROSSOVER = 0.15  # how likely an edit takes a part of a reference, where there is one
_ATTEMPTS = 100
_ATTEMPTS_FOR_MORE = 20  # after so many duplicates, every proposal gets an edit more
_DRAWS_PER_EDIT = 20
_SHARED = {"recurrences", "mix", "qk_norm", "output_norm"}  # parts in which several edits can each have a say


@dataclass(frozen=True)
class GrammarProposer:
    """Typed edits of a parent's program; the parent and the references for crossover come from the policy."""

    policy: ParentPolicy
    name: str = "grammar"
    # by id, with the spec that it was read from: thousands are known, and reading them takes most of a proposal's time
    _read: dict[int, tuple[object, MixerProgram]] = field(default_factory=dict, repr=False, compare=False)

    def propose(
        self, known: Sequence[KnownCandidate], rng: np.random.Generator, seen: Container[str]
    ) -> Proposal:
        """Propose a program that is new by fingerprint, and whose spec none of the known has.

        Raises NothingNew when no known candidate is a program of this grammar, or every attempt gave a
        duplicate.
        """
        own = [candidate for candidate in known if is_spec(candidate.spec)]
        programs = {candidate.id: self._program(candidate) for candidate in own}
        for attempt in range(_ATTEMPTS):
            parent = self.policy.parent(own, rng)
            if parent is None:
                raise NothingNew("no known candidate with a grammar program can be a parent")
            count = 1 + int(rng.choice(len(_EDIT_COUNTS), p=_EDIT_COUNTS)) + attempt // _ATTEMPTS_FOR_MORE
            references = [(one.name, programs[one.id]) for one in self.policy.references(own, rng, count)]
            program, edits = _edited(programs[parent.id], count, references, rng)
            if program in programs.values():
                continue
            motivation = _motivation(parent, [change for _, change in edits])
            source = emit(program, motivation)
            if fingerprint(source) in seen:
                continue
            return Proposal(
                program=source,
                name=program_name(program),
                motivation=motivation,
                parent=parent.id,
                edits=tuple(name for name, _ in edits),
                proposer=self.name,
                spec=to_spec(program),
                saw=tuple(candidate.id for candidate in own if candidate.has_result),
            )
        raise NothingNew(f"{_ATTEMPTS} edited programs in a row had all been proposed before")

    def _program(self, candidate: KnownCandidate) -> MixerProgram:
        if candidate.id not in self._read or self._read[candidate.id][0] is not candidate.spec:
            self._read[candidate.id] = candidate.spec, from_spec(candidate.spec)
        return self._read[candidate.id][1]


def _edited(
    program: MixerProgram,
    count: int,
    references: Sequence[tuple[str, MixerProgram]],
    rng: np.random.Generator,
) -> tuple[MixerProgram, list[tuple[str, Change]]]:
    """Up to `count` edits in a row, none of which takes back another, so that the motivation stays true."""
    current = program
    edits: list[tuple[str, Change]] = []
    touched: set[str] = set()
    for _ in range(_DRAWS_PER_EDIT * count):
        name, change = _change(current, references, rng)
        if name in dict(edits) or not touched.isdisjoint(_changed(current, change.program) - _SHARED):
            continue
        if not _changed(current, change.program) <= _changed(program, change.program):
            continue  # back to the parent's value in some part
        touched |= _changed(current, change.program)
        current = change.program
        edits.append((name, change))
        if len(edits) == count:
            break
    return current, edits


def _changed(before: MixerProgram, after: MixerProgram) -> set[str]:
    names = (part.name for part in fields(MixerProgram))
    return {name for name in names if getattr(before, name) != getattr(after, name)}


def _change(
    program: MixerProgram, references: Sequence[tuple[str, MixerProgram]], rng: np.random.Generator
) -> tuple[str, Change]:
    if references and rng.random() < _CROSSOVER:
        name, other = references[int(rng.integers(len(references)))]
        if crossed := cross(program, other, name):
            return "cross", crossed[int(rng.integers(len(crossed)))]
    return draw_change(program, rng)


def _motivation(parent: KnownCandidate, changes: Sequence[Change]) -> str:
    return "\n".join(
        [
            f"Made from {parent.name} (candidate {parent.id}).",
            *(f"{change.what} {change.why}" for change in changes),
        ]
    )
