"""What an edit yields: a changed program, with the words that say what changed and why it may help."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from asiarch.agents.grammar.program import MixerProgram, Recurrence, valid


@dataclass(frozen=True)
class Change:
    """One outcome of an edit."""

    program: MixerProgram
    what: str  # a sentence: what is different from the program before
    why: str  # a sentence or two: the mechanism by which it may help, with its source


@dataclass(frozen=True)
class Edit:
    """A typed edit: `options` lists every outcome for a program; none when the edit does not apply."""

    name: str
    options: Callable[[MixerProgram], list[Change]]
    # how often it is drawn, beside others: less for edits that change a size or a value, not the structure
    weight: float = 1.0


def edit(
    weight: float = 1.0,
) -> Callable[[Callable[[MixerProgram], Iterable[Change]]], Edit]:
    """Makes an Edit of a function that yields its outcomes; those that make no sense are left out."""

    def wrap(candidates: Callable[[MixerProgram], Iterable[Change]]) -> Edit:
        def options(program: MixerProgram) -> list[Change]:
            return [
                change
                for change in candidates(program)
                if change.program != program and not valid(change.program)
            ]

        return Edit(candidates.__name__, options, weight)

    return wrap


def each_state(
    program: MixerProgram,
) -> Iterator[tuple[Recurrence, Callable[[Recurrence], MixerProgram], str]]:
    """Each recurrence, how to put another in its place, and the words for it."""
    for index, state in enumerate(program.recurrences):

        def put(new: Recurrence, index: int = index) -> MixerProgram:
            states = list(program.recurrences)
            states[index] = new
            return replace(program, recurrences=tuple(states))

        which = (
            "the state" if len(program.recurrences) == 1 else ("the first state", "the second state")[index]
        )
        yield state, put, which
