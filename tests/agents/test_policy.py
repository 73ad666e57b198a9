from collections import Counter

import numpy as np
import pytest

from asiarch.agents.policy import PaperPolicy, make_policy


@pytest.fixture
def results(make_known):
    """60 finished candidates; number n has the fitness n, so that the best are the last."""
    return [make_known(number, fitness=float(number)) for number in range(60)]


def test_parents_are_uniform_over_the_best_ten(results) -> None:
    policy = PaperPolicy(cold_start=10, refresh=10)
    rng = np.random.default_rng(0)
    counts = Counter(policy.parent(results, rng).id for _ in range(5000))
    assert set(counts) == set(range(50, 60))
    # chi-squared with 9 degrees of freedom exceeds 33 once in ten thousand
    assert sum((count - 500) ** 2 / 500 for count in counts.values()) < 33


def test_references_are_different_and_from_the_rest_of_the_pool(results) -> None:
    policy = PaperPolicy(cold_start=10, refresh=10)
    rng = np.random.default_rng(0)
    drawn = [policy.references(results, rng, 4) for _ in range(300)]
    assert all(len({reference.id for reference in references}) == 4 for references in drawn)
    assert {reference.id for references in drawn for reference in references} == set(range(10, 50))


def test_pool_is_refreshed_only_after_so_many_results(results) -> None:
    policy = PaperPolicy(pool=3, parents=2, refresh=5, cold_start=10)
    best = [[candidate.id for candidate in policy.ranked_pool(results[:count])] for count in (9, 10, 14, 15)]
    assert best == [[], [9, 8, 7], [9, 8, 7], [14, 13, 12]]


def test_ties_go_to_the_older_candidate(make_known) -> None:
    equal = [make_known(number, fitness=1.0) for number in range(4)]
    policy = PaperPolicy(pool=2, parents=1, refresh=1, cold_start=0)
    assert [candidate.id for candidate in policy.ranked_pool(equal)] == [0, 1]


@pytest.mark.parametrize("name", ["paper", "random"])
def test_at_the_start_baselines_and_results_are_parents_and_nothing_else(make_known, name: str) -> None:
    known = [
        make_known(0),  # a baseline that still runs
        make_known(1, fitness=0.4),
        make_known(2),  # runs
        make_known(3, fitness=0.9, status="failed"),
        make_known(4, status="finished"),  # no fitness
        make_known(5, fitness=0.3),
        make_known(6, status="refused", parent=None),  # a baseline
        make_known(7, status="failed", parent=None),
        make_known(8, status="stopped", parent=None),
    ]
    policy, rng = make_policy(name), np.random.default_rng(0)
    assert {policy.parent(known, rng).id for _ in range(100)} == {0, 1, 5}
    assert {one.id for _ in range(50) for one in policy.references(known, rng, 2)} == {0, 1, 5}


def test_only_results_are_parents_after_the_cold_start(make_known) -> None:
    known = [make_known(0), make_known(1, fitness=0.9, status="failed"), make_known(2, fitness=0.1)]
    policy = PaperPolicy(refresh=1, cold_start=1)
    rng = np.random.default_rng(0)
    assert {policy.parent(known, rng).id for _ in range(50)} == {2}


def test_nothing_known_gives_no_parent() -> None:
    for name in ("paper", "random"):
        policy = make_policy(name)
        assert policy.parent([], np.random.default_rng(0)) is None
        assert policy.references([], np.random.default_rng(0), 3) == ()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"name": "best"}, "known are paper, random"),
        ({"name": "paper", "pool": 5, "parents": 6}, r"1 to pool \(5\), not 6"),
        ({"name": "paper", "refresh": 0}, "refresh must be 1 or more"),
    ],
)
def test_wrong_settings_say_what_is_allowed(arguments, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make_policy(**arguments)
