"""The ranking on small campaigns whose numbers can be worked out by hand."""

import csv
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from asiarch.results.ranking import CandidateInfo, RankingRow, rank, write_ranking
from asiarch.results.trial import TaskResult, TrialKey, TrialSummary

SEEDS = (0, 1, 2)
NOISE = (0.00, 0.03, -0.02)  # what a seed does to every candidate
OWN = ((0.0, 0.0, 0.0), (0.001, -0.002, 0.0015), (-0.001, 0.001, 0.0005), (0.002, 0.0, -0.001))


def trials(
    candidate: int,
    validation: float,
    test: float | None = None,
    rung: int = 0,
    seeds: Sequence[int] = SEEDS,
    tasks: dict[str, float] | None = None,
) -> list[TrialSummary]:
    shift = [NOISE[seed] + OWN[candidate % 4][seed] for seed in range(3)]
    return [
        TrialSummary(
            TrialKey(candidate, rung, seed),
            validation_loss=validation + shift[seed],
            test_loss=(validation if test is None else test) + shift[seed],
            tokens_per_s=1000.0 + seed,
            parameters=12345,
            validation_error=0.01,
            validation_windows=64,
            test_error=0.02,
            test_windows=128,
            tasks={name: TaskResult(score, 512, 0.01 * (seed + 1)) for name, score in (tasks or {}).items()},
        )
        for seed in seeds
    ]


def info(*candidates: int) -> list[CandidateInfo]:
    return [
        CandidateInfo(c, f"mixer{c}", "grammar", None if c == 0 else 0, f"candidates/{c:04d}")
        for c in candidates
    ]


def by_id(rows: Sequence[RankingRow]) -> dict[int, RankingRow]:
    return {row.candidate: row for row in rows}


def test_order_is_by_fitness_and_the_reference_has_one_half() -> None:
    results = [*trials(0, 4.0), *trials(1, 3.9), *trials(2, 4.2)]
    ranking = rank(results, info(0, 1, 2), reference=0, seeds=SEEDS)
    assert [(row.rank, row.candidate) for row in ranking.rows] == [(1, 1), (2, 0), (3, 2)]
    reference = by_id(ranking.rows)[0]
    assert reference.fitness == 0.5
    assert (reference.difference, reference.p_value, reference.p_adjusted) == (None, None, None)
    assert ranking.judge == "none"


def test_fitness_averages_paired_changes() -> None:
    own, base = trials(1, 3.9, tasks={"mqar": 0.6}), trials(0, 4.0, tasks={"mqar": 0.5})
    row = by_id(rank([*own, *base], info(0, 1), 0, SEEDS, judge={1: 10.0}).rows)[1]
    change = np.mean([1 - a.validation_loss / b.validation_loss for a, b in zip(own, base, strict=True)])
    expected = [1 / (1 + np.exp(-40 * change)), 1 / (1 + np.exp(-40 * 0.2)), 1.0]
    assert [row.loss_part, row.benchmark_part, row.judge_part] == pytest.approx(expected)
    assert row.fitness == pytest.approx(np.mean(expected))
    assert row.recall == pytest.approx(0.6)


def test_validation_selects_and_test_is_reported() -> None:
    # candidate 1 leads on validation and is worse on test: it leads, and its reported difference says "worse"
    results = [*trials(0, 4.0), *trials(1, 3.8, test=4.1), *trials(2, 4.1, test=3.7)]
    rows = by_id(rank(results, info(0, 1, 2), 0, SEEDS).rows)
    assert rows[1].rank == 1
    assert rows[1].difference == pytest.approx(0.1, abs=0.01)
    assert not rows[1].significant
    assert rows[2].rank == 3
    assert rows[2].significant


def test_difference_interval_and_correction_are_scipys() -> None:
    results = [*trials(0, 4.0), *trials(1, 3.99), *trials(2, 3.995), *trials(3, 4.0)]
    ranking = rank(results, info(0, 1, 2, 3), 0, SEEDS)
    base = [t.test_loss for t in trials(0, 4.0)]
    tests = {
        c: stats.ttest_rel([t.test_loss for t in results if t.key.candidate == c], base) for c in (1, 2, 3)
    }
    adjusted = stats.false_discovery_control([test.pvalue for test in tests.values()])
    rows = by_id(ranking.rows)
    assert ranking.family_size == 3
    for candidate, expected in zip(tests, adjusted, strict=True):
        row, interval = rows[candidate], tests[candidate].confidence_interval(0.95)
        assert row.p_value == pytest.approx(tests[candidate].pvalue, rel=1e-6)
        assert row.p_adjusted == pytest.approx(expected, rel=1e-6)
        assert (row.low, row.high) == pytest.approx((interval.low, interval.high), abs=1e-9)
        assert row.significant == (expected < 0.05 and row.difference is not None and row.difference < 0)


def test_significantly_worse_is_not_significant() -> None:
    row = by_id(rank([*trials(0, 4.0), *trials(1, 4.5)], info(0, 1), 0, SEEDS).rows)[1]
    assert row.p_adjusted is not None
    assert row.p_adjusted < 0.05
    assert not row.significant


def test_more_candidates_weaken_a_p_value() -> None:
    few = [*trials(0, 4.0), *trials(1, 3.99)]
    alone = by_id(rank(few, info(0, 1), 0, SEEDS).rows)[1]
    noise = np.random.default_rng(0).normal(0, 0.01, (40, 3))
    others = [
        TrialSummary(TrialKey(10 + c, 0, s), 4.0, 4.0 + NOISE[s] + noise[c, s], 1e3, 1, 0.0, 9, 0.0, 9)
        for c in range(40)
        for s in SEEDS
    ]
    crowded = by_id(rank([*few, *others], info(0, 1, *range(10, 50)), 0, SEEDS).rows)[1]
    assert alone.p_value == crowded.p_value
    assert alone.p_adjusted is not None
    assert crowded.p_adjusted is not None
    assert alone.significant
    assert crowded.p_adjusted > alone.p_adjusted


def test_a_candidate_without_every_seed_is_left_out() -> None:
    results = [*trials(0, 4.0), *trials(1, 3.0, seeds=(0, 2))]
    ranking = rank(results, info(0, 1), 0, SEEDS)
    assert [row.candidate for row in ranking.rows] == [0]
    assert ranking.family_size == 0


def test_only_the_same_rung_is_compared() -> None:
    results = [
        *trials(0, 4.0),
        *trials(0, 3.5, rung=1),
        *trials(1, 3.9),
        *trials(2, 4.1),
        *trials(2, 3.6, rung=1),
    ]
    rows = by_id(rank(results, info(0, 1, 2), 0, SEEDS).rows)
    assert (rows[1].rung, rows[2].rung) == (0, 1)
    assert rows[1].difference == pytest.approx(-0.1, abs=0.01)
    assert rows[2].difference == pytest.approx(0.1, abs=0.01)
    # the higher rung leads, however fit the lower
    assert [rows[c].rank for c in (0, 2, 1)] == [1, 2, 3]


def test_a_rung_that_is_incomplete_on_either_side_falls_back() -> None:
    base = [*trials(0, 4.0), *trials(0, 3.5, rung=1, seeds=(0, 1))]
    own = [*trials(1, 3.9), *trials(1, 3.0, rung=1), *trials(2, 3.8), *trials(2, 3.0, rung=1, seeds=(0,))]
    assert {row.rung for row in rank([*base, *own], info(0, 1, 2), 0, SEEDS).rows} == {0}


def test_a_missing_benchmark_is_not_scored() -> None:
    base = trials(0, 4.0, tasks={"mqar": 0.5, "lambada": 0.2})
    ranking = rank([*base, *trials(1, 3.0, tasks={"mqar": 0.9})], info(0, 1), 0, SEEDS)
    assert [row.candidate for row in ranking.rows] == [0]


def test_without_the_reference_there_is_no_ranking() -> None:
    assert rank(trials(1, 3.0), info(1), 0, SEEDS).rows == ()


def test_one_seed_has_no_significance() -> None:
    ranking = rank([*trials(0, 4.0, seeds=(0,)), *trials(1, 1.0, seeds=(0,))], info(0, 1), 0, seeds=(0,))
    row = by_id(ranking.rows)[1]
    assert (row.test_loss_sd, row.low, row.p_value, row.significant) == (None, None, None, False)
    assert ranking.family_size == 0


@pytest.mark.parametrize(("judge", "says"), [({}, "none"), ({1: 5.0}, "some"), ({0: 5.0, 1: 8.0}, "all")])
def test_the_ranking_says_whether_a_judge_took_part(judge: dict[int, float], says: str) -> None:
    assert rank([*trials(0, 4.0), *trials(1, 3.9)], info(0, 1), 0, SEEDS, judge).judge == says


def test_rank_refuses() -> None:
    with pytest.raises(ValueError, match="two different results"):
        rank([*trials(0, 4.0), *trials(0, 4.1)], info(0), 0, SEEDS)
    with pytest.raises(ValueError, match="nothing says what it is"):
        rank([*trials(0, 4.0), *trials(1, 4.1)], info(0), 0, SEEDS)
    with pytest.raises(ValueError, match="at least one seed"):
        rank([], [], 0, ())


def test_files_hold_the_ranking(tmp_path: Path) -> None:
    results = [*trials(0, 4.0, tasks={"mqar": 0.5}), *trials(1, 3.9, tasks={"mqar": 0.7})]
    ranking = rank(results, info(0, 1), 0, SEEDS)
    write_ranking(ranking, tmp_path)
    data = json.loads((tmp_path / "ranking.json").read_text())
    assert {key: data[key] for key in ("reference", "seeds", "alpha", "family_size", "judge")} == {
        "reference": 0,
        "seeds": [0, 1, 2],
        "alpha": 0.05,
        "family_size": 1,
        "judge": "none",
    }
    assert [row["difference"] for row in data["rows"]] == [row.difference for row in ranking.rows]
    with (tmp_path / "ranking.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["candidate"] for row in rows] == ["1", "0"]
    assert float(rows[0]["p_value"]) == ranking.rows[0].p_value
    assert rows[1]["difference"] == ""
    assert float(rows[0]["score_mqar"]) == ranking.rows[0].recall
    assert (rows[0]["n_mqar"], float(rows[0]["standard_error_mqar"])) == ("512", pytest.approx(0.02))
    assert ranking.rows[0].tasks["mqar"].standard_error == pytest.approx(0.02)
    assert {path.name for path in tmp_path.iterdir()} == {"ranking.json", "ranking.csv"}


def test_ranking_imports_are_light() -> None:
    code = (
        "import sys, asiarch.results.ranking, asiarch.results.trial;"
        "print(sorted({'h5py', 'pandas', 'scipy.stats', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
