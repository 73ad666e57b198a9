"""The edits, together: how one is drawn, what lies one edit away, and how two programs are crossed."""

from dataclasses import replace

import numpy as np

from asiarch.agents.grammar.changes import Change, Edit
from asiarch.agents.grammar.part_edits import PART_EDITS
from asiarch.agents.grammar.program import Mix, MixerProgram, valid
from asiarch.agents.grammar.state_edits import STATE_EDITS

EDITS: tuple[Edit, ...] = (*STATE_EDITS, *PART_EDITS)

__all__ = ["EDITS", "Change", "Edit", "cross", "draw_change", "neighbours"]


def neighbours(program: MixerProgram) -> list[tuple[str, Change]]:
    """Everything that one edit can make of a program, with the edit's name."""
    return [(edit.name, change) for edit in EDITS for change in edit.options(program)]


def draw_change(program: MixerProgram, rng: np.random.Generator) -> tuple[str, Change]:
    """A random edit among those that apply, by their weights, then one of its outcomes uniformly."""
    applicable = [(edit, options) for edit in EDITS if (options := edit.options(program))]
    weights = np.array([edit.weight for edit, _ in applicable])
    edit, options = applicable[int(rng.choice(len(applicable), p=weights / weights.sum()))]
    return edit.name, options[int(rng.integers(len(options)))]


def cross(program: MixerProgram, other: MixerProgram, other_name: str) -> list[Change]:
    """Each way to take one group of parts from another program."""
    both = "What helps one program may add to what helps another."
    one_branch = len(other.recurrences) == 1 and program.window is None
    mix: Mix = "none" if one_branch else _some_mix(program, other)
    norm = "head" if one_branch and program.output_norm == "branch" else program.output_norm
    states = replace(program, recurrences=other.recurrences, qk_norm=other.qk_norm, mix=mix, output_norm=norm)
    crossed = [
        (states, "the recurrent states"),
        (
            replace(
                program,
                q_conv=other.q_conv,
                k_conv=other.k_conv,
                v_conv=other.v_conv,
                token_shift=other.token_shift,
            ),
            "the short convolutions and token shift",
        ),
        (replace(program, feature_map=other.feature_map), "the feature map"),
        (
            replace(program, output_gate=other.output_gate, value_skip=other.value_skip),
            "the output gate and value skip",
        ),
    ]
    if other.window:
        window = replace(
            program, window=other.window, mix=other.mix if program.mix == "none" else program.mix
        )
        crossed.append((window, "the local window"))
    return [
        Change(new, f"Takes {parts} of {other_name}.", both)
        for new, parts in crossed
        if new != program and new != other and not valid(new)
    ]


def _some_mix(program: MixerProgram, other: MixerProgram) -> Mix:
    mixes = (program.mix, other.mix)
    return next((mix for mix in mixes if mix != "none"), "learned")
