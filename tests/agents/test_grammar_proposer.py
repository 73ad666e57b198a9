import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from asiarch.agents.grammar import BASELINE_PROGRAMS, GrammarProposer, RandomProposer, from_spec, valid
from asiarch.agents.grammar.program import is_spec
from asiarch.agents.novelty import fingerprint
from asiarch.agents.policy import PaperPolicy, RandomPolicy
from asiarch.agents.proposer import KnownCandidate, NothingNew


@pytest.fixture
def baselines(make_known) -> list[KnownCandidate]:
    return [
        make_known(number, program=program, parent=None)
        for number, program in enumerate(BASELINE_PROGRAMS.values())
    ]


BASELINES = list(BASELINE_PROGRAMS.values())


class Everything:
    """Every fingerprint was seen."""

    def __contains__(self, fingerprint: object) -> bool:
        return True


def test_a_campaign_of_proposals_has_no_duplicate(baselines, make_known) -> None:
    proposer = GrammarProposer(PaperPolicy(refresh=5, cold_start=10))
    known, seen = list(baselines), {fingerprint(one.program) for one in baselines}
    edits = []
    for number in range(len(known), 60):
        rng = np.random.default_rng([3, number])
        proposal = proposer.propose(known, rng, seen)
        print_ = fingerprint(proposal.program)
        assert print_ not in seen
        assert valid(from_spec(proposal.spec)) == []
        assert json.loads(json.dumps(proposal.spec)) == proposal.spec
        assert proposal.saw == tuple(one.id for one in known if one.has_result)
        assert f"(candidate {proposal.parent})" in proposal.motivation
        seen.add(print_)
        edits.append(proposal.edits)
        program = from_spec(proposal.spec)
        known.append(make_known(number, fitness=float(rng.random()), program=program, parent=proposal.parent))
    counts = [len(names) for names in edits]
    assert set(counts) == {1, 2, 3}
    assert counts.count(1) > len(counts) / 2
    assert any("cross" in names for names in edits)


def test_no_edit_of_a_proposal_takes_back_another(baselines) -> None:
    """Each part that some edit of the proposal changes is different in the end."""
    proposer = GrammarProposer(RandomPolicy())
    for seed in range(60):
        proposal = proposer.propose(baselines, np.random.default_rng(seed), set())
        parent, program = BASELINES[proposal.parent], from_spec(proposal.spec)
        assert len(set(proposal.edits)) == len(proposal.edits)
        if "switch_value_skip" in proposal.edits:
            assert program.value_skip != parent.value_skip
        if "switch_token_shift" in proposal.edits:
            assert program.token_shift != parent.token_shift
        if "change_feature_map" in proposal.edits:
            assert program.feature_map != parent.feature_map


def test_the_same_state_gives_the_same_proposal(baselines) -> None:
    proposer = GrammarProposer(RandomPolicy())
    for seed in range(5):
        one, same = (proposer.propose(baselines, np.random.default_rng(seed), set()) for _ in range(2))
        assert one == same
    others = {proposer.propose(baselines, np.random.default_rng(seed), set()).program for seed in range(8)}
    assert len(others) > 4


def test_a_proposal_does_not_depend_on_the_process(baselines) -> None:
    """No order of a set or hash of a string may reach the search: both differ between processes."""
    code = """
import sys
import numpy as np
from asiarch.agents.grammar import BASELINE_PROGRAMS, GrammarProposer, emit, to_spec
from asiarch.agents.novelty import fingerprint
from asiarch.agents.policy import RandomPolicy
from asiarch.agents.proposer import KnownCandidate
known = [
    KnownCandidate(i, f"candidate{i}", emit(p), to_spec(p), None, None, "running", None, True)
    for i, p in enumerate(BASELINE_PROGRAMS.values())
]
for seed in range(5):
    proposal = GrammarProposer(RandomPolicy()).propose(known, np.random.default_rng(seed), set())
    print(fingerprint(proposal.program), proposal.parent, proposal.edits)
assert "torch" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    proposer = GrammarProposer(RandomPolicy())
    here = [proposer.propose(baselines, np.random.default_rng(seed), set()) for seed in range(5)]
    assert done.stdout.splitlines() == [f"{fingerprint(p.program)} {p.parent} {p.edits}" for p in here]


def test_what_was_seen_is_not_proposed_again(baselines) -> None:
    proposer = GrammarProposer(RandomPolicy())
    first = proposer.propose(baselines, np.random.default_rng(0), set())
    second = proposer.propose(baselines, np.random.default_rng(0), {fingerprint(first.program)})
    assert fingerprint(second.program) != fingerprint(first.program)


def test_a_known_program_is_not_proposed_again(baselines, make_known) -> None:
    proposer = GrammarProposer(RandomPolicy())
    first = proposer.propose(baselines[:1], np.random.default_rng(0), set())
    known = [*baselines[:1], make_known(1, program=from_spec(first.spec))]
    second = proposer.propose(known, np.random.default_rng(0), set())
    assert second.spec != first.spec


def test_gives_up_when_everything_was_seen(baselines) -> None:
    with pytest.raises(NothingNew, match="had all been proposed"):
        GrammarProposer(RandomPolicy()).propose(baselines, np.random.default_rng(0), Everything())


def test_programs_of_others_are_no_parents(baselines) -> None:
    foreign = KnownCandidate(9, "softmax", "class A: pass", {}, 1.0, 1.0, "finished", None)
    assert not is_spec(foreign.spec)
    proposer, rng = GrammarProposer(RandomPolicy()), np.random.default_rng(0)
    assert {proposer.propose([foreign, *baselines], rng, set()).parent for _ in range(20)} == {0, 1, 2}
    with pytest.raises(NothingNew, match="no known candidate"):
        proposer.propose([foreign], rng, set())


def test_random_programs_are_new_valid_and_blind_to_results(baselines, make_known) -> None:
    proposer = RandomProposer()
    known = [*baselines, make_known(3, fitness=0.9)]
    seen: set[str] = set()
    for seed in range(6):
        blind = proposer.propose([], np.random.default_rng(seed), seen)
        assert blind == proposer.propose(known, np.random.default_rng(seed), seen)
        assert valid(from_spec(blind.spec)) == []
        assert (blind.parent, blind.saw, blind.proposer) == (None, (), "random")
        assert fingerprint(blind.program) not in seen
        seen.add(fingerprint(blind.program))
    with pytest.raises(NothingNew, match="had all been proposed"):
        proposer.propose([], np.random.default_rng(0), Everything())


def test_a_random_program_with_a_result_is_a_parent_as_any_other(baselines, make_known) -> None:
    program = from_spec(RandomProposer().propose([], np.random.default_rng(0), set()).spec)
    kept = make_known(7, fitness=0.6, program=program, parent=None)
    failed = replace(kept, id=8, status="failed", fitness=None, baseline=False)
    proposer, rng = GrammarProposer(RandomPolicy()), np.random.default_rng(0)
    drawn = {
        proposer.propose([*baselines, replace(kept, baseline=False), failed], rng, set()).parent
        for _ in range(40)
    }
    assert drawn == {0, 1, 2, 7}
