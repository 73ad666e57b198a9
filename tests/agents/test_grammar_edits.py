import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asiarch.agents.grammar import BASELINE_PROGRAMS, EDITS, emit, from_spec, neighbours, to_spec, valid
from asiarch.agents.grammar.edits import cross, draw_change
from asiarch.agents.grammar.program import Convolution, Decay, MixerProgram, Recurrence
from asiarch.agents.novelty import fingerprint

BASELINES = list(BASELINE_PROGRAMS.values())


def walk(seed: int, steps: int) -> MixerProgram:
    """A program `steps` random edits away from a baseline."""
    rng = np.random.default_rng(seed)
    program = BASELINES[seed % len(BASELINES)]
    for _ in range(steps):
        _, change = draw_change(program, rng)
        program = change.program
    return program


PROGRAMS = st.builds(walk, st.integers(0, 10_000), st.integers(0, 25))


@settings(max_examples=80, deadline=None)
@given(PROGRAMS)
def test_every_outcome_of_every_edit_is_valid_new_and_explained(program: MixerProgram) -> None:
    for edit in EDITS:
        for change in edit.options(program):
            assert valid(change.program) == []
            assert change.program != program
            for sentence in (change.what, change.why):
                assert sentence[0].isupper()
                assert sentence.endswith(".")
                assert "{" not in sentence


@settings(max_examples=15, deadline=None)
@given(PROGRAMS)
def test_the_search_cannot_get_stuck(program: MixerProgram) -> None:
    """Many different edits apply to every program."""
    assert len({name for name, _ in neighbours(program)}) >= 8


@settings(max_examples=10, deadline=None)
@given(PROGRAMS)
def test_different_programs_have_different_fingerprints(program: MixerProgram) -> None:
    near = {change.program for _, change in neighbours(program)} | {program}
    sample = sorted(near, key=repr)[::4]
    assert len({fingerprint(emit(one)) for one in sample}) == len(sample)


@settings(max_examples=60, deadline=None)
@given(PROGRAMS)
def test_spec_round_trip_through_json(program: MixerProgram) -> None:
    spec = to_spec(program)
    assert json.loads(json.dumps(spec)) == spec
    assert from_spec(spec) == program


@settings(max_examples=40, deadline=None)
@given(PROGRAMS, PROGRAMS)
def test_crossing_gives_valid_programs_that_are_neither_parent(
    one: MixerProgram, other: MixerProgram
) -> None:
    for change in cross(one, other, "the other"):
        assert valid(change.program) == []
        assert change.program not in (one, other)
        assert "the other" in change.what


def test_every_edit_applies_somewhere() -> None:
    used = {name for seed in range(40) for name, _ in neighbours(walk(seed, 12))}
    assert used == {edit.name for edit in EDITS}
    assert len(EDITS) >= 15


def test_the_grammar_reaches_other_structures_within_three_edits() -> None:
    """From DeltaNet to Gated DeltaNet and to GLA: known architectures lie on the paths of the search."""
    start = BASELINE_PROGRAMS["delta_net"]
    gated = BASELINE_PROGRAMS["gated_delta_net"]
    two_away = {second.program for _, first in neighbours(start) for _, second in neighbours(first.program)}
    assert gated in two_away
    assert len(two_away) > 500

    without_parts = replace(
        BASELINE_PROGRAMS["gla"], recurrences=(Recurrence("linear", "plain"),), output_gate=None
    )
    one_away = {change.program for _, change in neighbours(without_parts)}
    channel_decay = replace(without_parts, recurrences=BASELINE_PROGRAMS["gla"].recurrences)
    assert channel_decay in one_away


def test_the_order_of_the_states_carries_no_meaning() -> None:
    fast = Recurrence("linear", "plain", Decay("head", "softplus", (2.0, 64.0)))
    slow = Recurrence("linear", "plain", Decay("head", "softplus", (64.0, 4096.0)))
    assert MixerProgram((fast, slow), mix="learned") == MixerProgram((slow, fast), mix="learned")


DELTA = BASELINE_PROGRAMS["delta_net"]
LINEAR = MixerProgram((Recurrence("linear", "plain"),))


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (replace(DELTA, qk_norm="none"), "l2-normalised keys"),
        (
            replace(DELTA, recurrences=(Recurrence("delta", "beta", Decay("channel", "logsigmoid", None)),)),
            "a decay for each head",
        ),
        (replace(DELTA, recurrences=(Recurrence("delta", "tied"),)), "has no write 'tied'"),
        (replace(LINEAR, output_norm="none", qk_norm="l2"), "grows with the length"),
        (replace(LINEAR, recurrences=(Recurrence("linear", "tied"),)), "needs a decay"),
        (replace(LINEAR, recurrences=LINEAR.recurrences * 2, mix="learned"), "two equal recurrences"),
        (replace(LINEAR, recurrences=()), "one or two recurrences, not 0"),
        (replace(LINEAR, mix="learned"), "only one branch needs no mix"),
        (replace(LINEAR, output_norm="branch"), "there is one branch"),
        (replace(LINEAR, q_conv=Convolution(width=1)), "width is 1"),
        (
            replace(LINEAR, recurrences=(Recurrence("linear", "plain", Decay("head", "fixed", None)),)),
            "needs a timescale",
        ),
        (
            replace(LINEAR, recurrences=(Recurrence("linear", "plain", Decay("head", "fixed", (9.0, 2.0))),)),
            "shortest to longest",
        ),
    ],
)
def test_combinations_without_sense_say_why(program: MixerProgram, reason: str) -> None:
    assert any(reason in line for line in valid(program))
    with pytest.raises(ValueError, match="makes no sense"):
        emit(program)
    with pytest.raises(ValueError, match="makes no sense"):
        from_spec(to_spec(program))


@pytest.mark.parametrize("spec", [{}, {"grammar": 0}, {"grammar": 1}, {"grammar": 1, "mixer": {"x": 1}}])
def test_a_broken_spec_is_refused(spec) -> None:
    with pytest.raises(ValueError, match="mixer program"):
        from_spec(spec)
