import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats

from asiarch.agents.lineage import fit_lineage
from asiarch.agents.lineage_policy import LineagePolicy, families
from asiarch.agents.policy import PaperPolicy, ParentPolicy, make_policy
from asiarch.agents.proposer import KnownCandidate


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


@pytest.mark.parametrize("name", ["lineage", "paper", "random"])
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
    for name in ("lineage", "paper", "random"):
        policy = make_policy(name)
        assert policy.parent([], np.random.default_rng(0)) is None
        assert policy.references([], np.random.default_rng(0), 3) == ()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"name": "best"}, "known are lineage, paper, random"),
        ({"name": "paper", "pool": 5, "parents": 6}, r"1 to pool \(5\), not 6"),
        ({"name": "paper", "refresh": 0}, "refresh must be 1 or more"),
        ({"name": "lineage", "spread": 1.5}, "spread 0 to 1, not 5, 1.5"),
    ],
)
def test_wrong_settings_say_what_is_allowed(arguments, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make_policy(**arguments)


def scored(make_known, number: int, scores: tuple[float, ...], parent: int | None = 0) -> KnownCandidate:
    return make_known(number, fitness=float(np.mean(scores)), parent=parent, seed_fitness=scores)


def test_a_parent_is_drawn_as_often_as_it_is_likely_to_be_the_best(make_known) -> None:
    """Against the normal distribution of the difference of two qualities, a parent's and its child's."""
    known = [scored(make_known, 0, (0.5, 0.5, 0.5)), scored(make_known, 1, (0.50, 0.58, 0.45))]
    found = fit_lineage([-1, 0], [one.seed_fitness for one in known]).marginals()
    variance = sum(found.variance) - 2 * found.with_parent[1]
    likely = stats.norm.cdf((found.mean[1] - found.mean[0]) / math.sqrt(variance))
    assert 0.05 < likely < 0.95
    policy, rng = LineagePolicy(spread=0.0), np.random.default_rng(0)
    children = sum(policy.parent(known, rng).id for _ in range(4000))
    assert stats.binomtest(children, 4000, likely).pvalue > 1e-4


def test_lineage_prefers_what_relatives_bear_out_to_one_lucky_seed(make_known) -> None:
    """2 has the best mean, by one seed; 1 is a little lower at every seed, and so are its children."""
    known = [scored(make_known, 0, (0.50, 0.50, 0.50))]
    known += [scored(make_known, 1, (0.60, 0.61, 0.60)), scored(make_known, 2, (0.51, 0.83, 0.49))]
    known += [scored(make_known, n, (0.60, 0.59, 0.61), parent=1) for n in (3, 4, 5)]
    known += [scored(make_known, n, (0.50, 0.51, 0.50), parent=2) for n in (6, 7, 8)]
    assert PaperPolicy(parents=1, refresh=1, cold_start=0).parent(known, np.random.default_rng(0)).id == 2
    rng = np.random.default_rng(0)
    drawn = Counter(LineagePolicy(spread=0.0).parent(known, rng).id for _ in range(500))
    assert drawn[1] + drawn[3] + drawn[4] + drawn[5] > 450
    assert drawn[2] < 25


@pytest.fixture
def islands(make_known):
    """Four families of five, 0 a baseline, 1 to 4 founders; each founder's family is a little better than the last."""
    rng = np.random.default_rng(0)
    known = [scored(make_known, 0, (0.5, 0.5, 0.5))]
    for number in range(1, 21):
        founder = 1 + (number - 1) % 4
        scores = tuple((0.5 + 0.02 * founder + 0.001 * rng.standard_normal(3)).tolist())
        known.append(scored(make_known, number, scores, parent=0 if number == founder else founder))
    return known


def test_spread_is_the_share_of_parents_from_all_islands_alike(islands) -> None:
    founders, rng = families(islands), np.random.default_rng(0)
    policy = LineagePolicy(islands=3, spread=0.6)
    drawn = Counter(founders[policy.parent(islands, rng).id] for _ in range(2000))
    # the best family leads in nearly every draw, and is one of three islands
    expected = {4: 0.4 + 0.2, 3: 0.2, 2: 0.2}
    assert set(drawn) == set(expected)
    observed = [drawn[founder] for founder in expected]
    assert stats.chisquare(observed, [2000 * share for share in expected.values()]).pvalue > 1e-4


def test_references_come_from_different_islands(islands) -> None:
    founders, rng = families(islands), np.random.default_rng(0)
    for _ in range(50):
        drawn = [founders[one.id] for one in LineagePolicy(islands=3).references(islands, rng, 3)]
        assert len(set(drawn)) == 3


def test_families_begin_at_a_baseline_s_children_and_at_programs_without_a_parent(make_known) -> None:
    known = [
        make_known(0),
        make_known(1, parent=None),
        make_known(2),
        make_known(3, parent=2),
        make_known(4, parent=1),
    ]
    known += [
        replace(make_known(5, parent=None), baseline=False),
        make_known(6, parent=5),
        make_known(7, parent=3),
    ]
    assert families(known) == {0: 0, 1: 1, 2: 2, 3: 2, 4: 4, 5: 5, 6: 5, 7: 2}


@st.composite
def campaigns(draw: st.DrawFn) -> list[KnownCandidate]:
    """What may be known in the middle of a campaign, of candidates with every kind of end."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    seeds = draw(st.integers(1, 3))
    known: list[KnownCandidate] = []
    for number in range(draw(st.integers(1, 25))):
        possible = [one.id for one in known if one.startable]
        baseline = not possible or rng.random() < 0.1
        status = str(rng.choice(["finished", "finished", "failed", "refused", "stopped", "proposed"]))
        scores = tuple(rng.random(seeds).tolist()) if status == "finished" else ()
        known.append(
            KnownCandidate(
                id=number,
                name="",
                program="",
                spec={},
                fitness=float(np.mean(scores)) if scores else None,
                loss=None,
                status=status,
                parent=None if baseline else int(rng.choice(possible)),
                baseline=baseline,
                seed_fitness=scores,
            )
        )
    return known


POLICIES: list[ParentPolicy] = [
    LineagePolicy(),
    LineagePolicy(islands=2, spread=1.0),
    PaperPolicy(pool=6, parents=2, refresh=3, cold_start=4),
    make_policy("random"),
]


def drawn(policy: ParentPolicy, known: list[KnownCandidate]) -> list[int]:
    rng = np.random.default_rng(0)
    parents = [policy.parent(known, rng) for _ in range(4)]
    return [-1 if one is None else one.id for one in (*parents, *policy.references(known, rng, 3))]


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(known=campaigns())
def test_a_draw_rests_on_results_alone_and_never_falls_on_a_failure(
    policy: ParentPolicy, known: list[KnownCandidate]
) -> None:
    """What failed or still runs could as well not be there, and nothing is kept from one draw to the next."""
    found = drawn(policy, known)
    sound = {
        one.id for one in known if one.status == "finished" or (one.baseline and one.status == "proposed")
    }
    assert set(found) <= (sound or {-1})
    assert drawn(replace(policy), [one for one in known if one.id in sound]) == found
