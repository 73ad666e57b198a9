"""A selection of the corpus, each program in this process; tests/bench/check_corpus.py checks the whole."""

import pytest
from corpus_files import Entry, entries

from asiarch.models.check.program import CHECK_NAMES, check_program

# One program or more for each way of looking: the fast ones always, the others in the full tests
FAST = """
    wrong/chunk_state_too_early wrong/leak_behind_closed_sigmoid wrong/leak_in_bf16 wrong/leak_at_random
    wrong/straight_through_future wrong/leak_on_gpu wrong/layers_talk wrong/call_counter wrong/gradient_hook
    wrong/quadratic_memory_only honest/padded_fft honest/total_minus_future
"""
SLOW = """
    wrong/leak_at_one_length wrong/leak_at_long_lengths wrong/leak_behind_large_gate wrong/leak_under_autocast
    wrong/leak_with_input_gradients wrong/leak_for_large_batches wrong/leak_by_padding_detection
    wrong/quadratic_backward wrong/quadratic_unfold wrong/cubic_solve wrong/long_recurrence_overflow
    wrong/input_changed_in_place honest/chaotic_recurrence honest/layer_drop honest/cached_rotary_table
    honest/lstm honest/gpu_branch honest/nan_guard honest/gate_floor_never_met
"""
CORPUS = {entry.name: entry for entry in entries()}


@pytest.mark.parametrize(
    "name", [*FAST.split(), *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW.split())]
)
def test_the_right_check_refuses_or_all_accept(name: str) -> None:
    entry = CORPUS[name]
    report = check_program(entry.path)
    refused_by = {check.name for check in report.refusals}
    if entry.refused_by:
        assert refused_by & set(entry.refused_by), report.refusals
        assert all(
            "Usual cause" in check.message for check in report.refusals if check.name == entry.refused_by[0]
        )
    else:
        assert report.accepted, report.refusals


def test_the_corpus_is_large_and_says_what_it_does() -> None:
    wrong = [entry for entry in CORPUS.values() if entry.refused_by]
    assert len(wrong) >= 60
    assert len(CORPUS) - len(wrong) >= 30
    assert {check for entry in wrong for check in entry.refused_by} <= set(CHECK_NAMES)


def test_no_two_programs_of_the_corpus_are_the_same() -> None:
    def code(entry: Entry) -> str:
        return entry.path.read_text().split('"""', 2)[2]

    assert len({code(entry) for entry in CORPUS.values()}) == len(CORPUS)
