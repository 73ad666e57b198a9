"""The built-in proposer: typed edits of a token mixer's program, without an LLM."""

from asiarch.agents.grammar.edits import EDITS, Change, Edit, neighbours
from asiarch.agents.grammar.emit import emit
from asiarch.agents.grammar.program import BASELINE_PROGRAMS, MixerProgram, from_spec, to_spec, valid
from asiarch.agents.grammar.proposer import GrammarProposer
from asiarch.agents.grammar.random_proposer import RandomProposer

__all__ = [
    "BASELINE_PROGRAMS",
    "EDITS",
    "Change",
    "Edit",
    "GrammarProposer",
    "MixerProgram",
    "RandomProposer",
    "emit",
    "from_spec",
    "neighbours",
    "to_spec",
    "valid",
]
