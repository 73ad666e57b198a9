"""Yields of a small campaign that can be counted by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from asiarch.results.ranking import CandidateInfo, Ranking, rank
from asiarch.results.trial import TrialKey, TrialSummary
from asiarch.results.yields import Tried, Yield, Yields, yields

SEEDS = (0, 1, 2)
SCATTER = np.random.default_rng(0).normal(0, 0.004, (9, 3))


def trials(candidate: int, validation: float, test: float, rung: int = 0) -> list[TrialSummary]:
    noise = SCATTER[candidate] + (0.0, 0.05, -0.03)
    return [
        TrialSummary(
            TrialKey(candidate, rung, seed),
            validation + noise[seed],
            test + noise[seed],
            1.0,
            1,
            0.0,
            9,
            0.0,
            9,
        )
        for seed in SEEDS
    ]


# 1 beats the reference, and so does its child 2, which is above 1 by validation loss alone; 3 beats its parent 4,
# which is worse than the reference by much, and 7 does too, at the only rung that both have; 5 is refused, 6 failed,
# 8 lacks a seed
RESULTS = [
    *trials(0, 3.0, 3.0),
    *trials(0, 2.5, 2.5, rung=1),
    *trials(1, 2.7, 2.7),
    *trials(2, 2.6, 2.7),
    *trials(3, 3.0, 3.0),
    *trials(4, 3.3, 3.3),
    *trials(7, 3.1, 3.1),
    *trials(7, 2.6, 2.6, rung=1),
    *trials(8, 3.0, 3.0)[:2],
]
TRIED = [
    Tried(1, "grammar", 0, True, 1.0, 2.0),
    Tried(2, "grammar", 1, True, 1.0, 2.0),
    Tried(4, "random", None, True, 0.5, 0.5),
    Tried(3, "grammar", 4, True, 2.0, 2.0),
    Tried(5, "random", None, False, 0.0, 0.0),
    Tried(6, "grammar", 1, True, 0.0, 0.0),
    Tried(7, "grammar", 4, True, 1.0, 4.0),
    Tried(8, "random", None, True, 0.5, 0.5),
]


def ranked() -> Ranking:
    infos = [CandidateInfo(n, f"c{n}", "x", None, "x") for n in range(9)]
    return rank(RESULTS, infos, reference=0, seeds=SEEDS)


def test_counts_and_rates_of_each_proposer() -> None:
    found = yields(TRIED, RESULTS, ranked())
    grammar, random = found.proposers
    assert found.origins == ()
    assert grammar == Yield("grammar", 5, 5, 4, 4, 3, 2, 5.0, 10.0)
    assert random == Yield("random", 3, 2, 1, 0, 0, 0, 1.0, 1.0)
    assert grammar.for_each_accepted == 2 / 5
    assert grammar.for_each_gpu_hour == 2 / 5
    assert grammar.for_each_trial_hour == 2 / 10
    assert grammar.to_json()["for_each_accepted"] == 2 / 5


def test_an_idea_counts_for_each_of_its_origins() -> None:
    named = {
        1: ("cognition",),
        2: ("experience", "cognition"),
        3: ("experience",),
        5: ("original",),
        6: ("cognition",),
    }
    found = yields([replace(one, origins=named.get(one.candidate, ())) for one in TRIED], RESULTS, ranked())
    assert found.proposers == yields(TRIED, RESULTS, ranked()).proposers
    experience, cognition, original = found.origins
    assert experience == Yield("experience", 2, 2, 2, 2, 1, 1, 3.0, 4.0)
    assert cognition == Yield("cognition", 3, 3, 2, 2, 1, 2, 2.0, 4.0)
    assert original == Yield("original", 1, 0, 0, 0, 0, 0, 0.0, 0.0)
    assert cognition.for_each_accepted == 2 / 3
    # six origins are named, for five accepted candidates, by three times a winner
    shares = {one.name: share for one, share in found.shares()}
    assert [shares[name]["proposed"] for name in shares] == [2 / 6, 3 / 6, 1 / 6]
    assert [shares[name]["accepted"] for name in shares] == [2 / 5, 3 / 5, 0]
    assert [shares[name]["beat_reference"] for name in shares] == [1 / 3, 2 / 3, 0]
    assert Yields.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_beating_the_parent_survives_a_correction_over_all_with_parents() -> None:
    """A difference that is significant alone is not among many that are nothing."""
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 0.01, (41, 3))
    noise[1] = noise[0] + np.array([-0.020, -0.022, -0.031])

    def results(count: int) -> list[TrialSummary]:
        keys = [(n, seed) for n in range(count) for seed in SEEDS]
        return [
            TrialSummary(TrialKey(n, 0, s), 3 + noise[n, s], 3 + noise[n, s], 1.0, 1, 0.0, 9, 0.0, 9)
            for n, s in keys
        ]

    def beat(count: int) -> int:
        infos = [CandidateInfo(n, "c", "x", None, "x") for n in range(count)]
        tried = [Tried(n, "grammar", 0, True, 0.0, 0.0) for n in range(1, count)]
        found = results(count)
        return yields(tried, found, rank(found, infos, 0, SEEDS)).proposers[0].beat_parent

    p = stats.ttest_rel(noise[1], noise[0]).pvalue
    assert 0.05 / 40 < p < 0.05
    assert beat(2) == 1
    assert beat(41) == 0


@pytest.mark.parametrize("accepted", [False, True])
def test_no_rate_where_nothing_was_used(accepted: bool) -> None:
    (one,) = yields([Tried(9, "random", None, accepted, 0.0, 0.0)], RESULTS, ranked()).proposers
    assert one.for_each_accepted == (0.0 if accepted else None)
    assert one.for_each_gpu_hour is None
    assert one.for_each_trial_hour is None
