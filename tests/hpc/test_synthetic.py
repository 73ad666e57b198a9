"""Synthetic tasks: exact by construction, seeded, and scored against models that cheat or guess."""

import itertools
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from asiarch.hpc.config import preset_values
from asiarch.hpc.config_evaluation import EvaluationConfig, TaskName
from asiarch.hpc.evaluation.copying import BLANK, MARK, SelectiveCopying
from asiarch.hpc.evaluation.induction import Induction
from asiarch.hpc.evaluation.mqar import FILLER, MQAR
from asiarch.hpc.evaluation.state_tracking import WordProblem, multiplication_table
from asiarch.hpc.evaluation.synthetic import Score, accuracy, score_of_best, synthetic_task
from asiarch.models.language_model import IGNORED_TARGET as IGNORED


@settings(max_examples=30, deadline=None)
@given(
    pairs=st.integers(1, 8), spare=st.integers(0, 20), seed=st.integers(0, 2**31), step=st.integers(0, 10**6)
)
def test_each_query_has_the_value_of_its_key(pairs: int, spare: int, seed: int, step: int) -> None:
    task = MQAR(pairs, vocabulary=40, length=4 * pairs + spare, batch_size=3, seed=seed)
    inputs, targets = task[step]
    assert inputs.shape == targets.shape == (3, 4 * pairs + spare)
    for row, answers in zip(inputs, targets, strict=True):
        table = dict(zip(row[0 : 2 * pairs : 2], row[1 : 2 * pairs : 2], strict=True))
        assert len(table) == pairs
        queries = np.flatnonzero(answers != IGNORED)
        assert sorted(row[queries]) == sorted(table)
        assert all(table[row[place]] == answers[place] for place in queries)
        assert (queries >= 2 * pairs).all()
        rest = np.setdiff1d(np.arange(2 * pairs, len(row)), queries)
        assert (row[rest] == FILLER).all()
        assert not set(table) & set(table.values())


def test_batches_are_a_function_of_seed_and_step() -> None:
    one, again, other = (MQAR(4, 32, 32, 8, seed) for seed in (1, 1, 2))
    assert np.array_equal(one[5][0], again[5][0])
    assert not np.array_equal(one[5][0], one[6][0])
    assert not np.array_equal(one[5][0], other[5][0])


class Oracle(nn.Module):
    """Looks the key up in the prefix, as a perfect model would."""

    def __init__(self, vocabulary: int, wrong: bool = False) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.vocabulary = vocabulary
        self.wrong = wrong

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(*tokens.shape, self.vocabulary)
        for row, line in enumerate(tokens.tolist()):
            for place, token in enumerate(line):
                before = [i for i in range(0, place - 1, 2) if line[i] == token]
                if before:
                    answer = line[before[0] + 1]
                    logits[row, place, FILLER if self.wrong else answer] = 1.0
        return logits


def test_a_perfect_model_scores_one_and_a_wrong_one_zero() -> None:
    task = MQAR(4, 32, 32, 8, seed=0)
    best = accuracy(Oracle(32), task, batches=2)
    assert (best.score, best.n, best.standard_error) == (1.0, 2 * 8 * 4, 0.0)
    assert accuracy(Oracle(32, wrong=True), task, batches=2).score == 0.0


def test_guessing_among_the_values_scores_at_chance() -> None:
    class Guess(Oracle):
        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            generator = torch.Generator().manual_seed(int(tokens.sum()))
            logits = torch.full((*tokens.shape, self.vocabulary), -1e9)
            values = 1 + (self.vocabulary - 1) // 2
            logits[..., values:] = torch.rand(*tokens.shape, self.vocabulary - values, generator=generator)
            return logits

    task = MQAR(4, 32, 32, 64, seed=3)
    score = accuracy(Guess(32), task, batches=8)
    assert abs(score.score - task.chance) < 4 * np.sqrt(task.chance * (1 - task.chance) / score.n)


NAMES: tuple[TaskName, ...] = get_args(TaskName)
SIZES = EvaluationConfig.model_validate(preset_values("demo")["evaluation"])


@pytest.mark.parametrize("name", NAMES)
def test_streams_are_functions_of_seed_and_step_and_never_meet(name: TaskName) -> None:
    one, again, other = (synthetic_task(name, SIZES, seed) for seed in (1, 1, 2))
    for part in (0, 1):
        assert np.array_equal(one[5][part], again[5][part])
    assert not np.array_equal(one[5][0], one[6][0])
    assert not np.array_equal(one[5][0], other[5][0])
    sizes = SIZES.task(name)
    for part in one[3]:
        assert part.dtype == np.int64
        assert part.shape == (sizes.batch_size, sizes.length)
    inputs, targets = one[3]
    assert 0 <= inputs.min() <= inputs.max() < one.vocabulary
    answers = targets[targets != IGNORED]
    assert 0 <= answers.min() <= answers.max() < one.vocabulary


@pytest.mark.parametrize("name", NAMES)
def test_chance_is_what_guessing_among_the_answers_scores(name: TaskName) -> None:
    task = synthetic_task(name, SIZES, 7)
    rng = np.random.default_rng(0)
    answers = np.concatenate([t[t != IGNORED] for t in (task[step][1] for step in range(40))])
    possible = np.unique(answers)
    assert len(possible) == round(1 / task.chance)
    right = (rng.choice(possible, answers.shape) == answers).mean()
    assert abs(right - task.chance) < 4 * np.sqrt(task.chance * (1 - task.chance) / len(answers))


@given(
    items=st.integers(1, 8), spare=st.integers(0, 30), seed=st.integers(0, 2**31), step=st.integers(0, 10**6)
)
def test_copying_asks_for_the_items_in_their_order(items: int, spare: int, seed: int, step: int) -> None:
    inputs, targets = SelectiveCopying(items, 12, 2 * items + spare, 3, seed)[step]
    for row, answers in zip(inputs.tolist(), targets.tolist(), strict=True):
        assert [token for token in row if token not in (BLANK, MARK)] == answers[-items:]
        assert row[-items:] == [MARK] * items
        assert row.count(MARK) == items
        assert set(answers[:-items]) == {IGNORED}


@given(half=st.integers(2, 20), seed=st.integers(0, 2**31), step=st.integers(0, 10**6))
def test_induction_asks_for_what_followed_before(half: int, seed: int, step: int) -> None:
    inputs, targets = Induction(2 * half, 3, seed)[step]
    for row, answers in zip(inputs.tolist(), targets.tolist(), strict=True):
        assert len(set(row[:half])) == half
        followed = dict(itertools.pairwise(row[:half]))
        asked = [place for place in range(2 * half) if answers[place] != IGNORED]
        assert asked == list(range(half, 2 * half - 1))
        assert all(followed[row[place]] == answers[place] for place in asked)


@given(group=st.sampled_from(["parity", "s3", "s5"]), seed=st.integers(0, 2**31), step=st.integers(0, 10**6))
def test_state_tracking_is_the_product_so_far(group: str, seed: int, step: int) -> None:
    """Against things that are moved about, one permutation after the other."""
    moved = {"parity": 2, "s3": 3, "s5": 5}[group]
    elements = list(itertools.permutations(range(moved)))
    inputs, targets = WordProblem(group, 9, 2, seed)[step]
    for row, answers in zip(inputs, targets, strict=True):
        positions = list(range(moved))
        for element, answer in zip(row, answers, strict=True):
            positions = [elements[element][position] for position in positions]
            assert positions == list(elements[answer])


@pytest.mark.parametrize("group", ["parity", "s3", "s5"])
def test_the_tables_are_those_of_groups(group: str) -> None:
    table = multiplication_table(group)
    order = len(table)
    assert (table[0] == np.arange(order)).all()
    assert (table[:, 0] == np.arange(order)).all()
    assert all(sorted(row) == list(range(order)) for row in table)
    a, b, c = np.random.default_rng(0).integers(0, order, (3, 500))
    assert (table[table[a, b], c] == table[a, table[b, c]]).all()
    assert (table == table.T).all() == (group == "parity")


def test_the_standard_error_counts_sequences_and_not_answers() -> None:
    """Sequences that are right or wrong as a whole: the error is that of as many coin tosses."""
    rng = np.random.default_rng(0)
    whole = (rng.random(400) < 0.3) * 10
    score = Score.of(whole, np.full(400, 10))
    share = whole.mean() / 10
    assert score.score == pytest.approx(share)
    assert score.standard_error == pytest.approx(np.sqrt(share * (1 - share) / 399))
    means = [rng.choice(whole, 400).mean() / 10 for _ in range(2000)]
    assert score.standard_error == pytest.approx(np.std(means), rel=0.1)


class Knows(nn.Module):
    """Tells a word problem's products in some of its streams, and nothing in the others."""

    def __init__(self, *seeds: int) -> None:
        super().__init__()
        self.known = {seed: WordProblem("s3", 8, 4, seed) for seed in seeds}
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(*tokens.shape, 6)
        for task in self.known.values():
            for step in range(2):
                inputs, targets = task[step]
                if (inputs == tokens.numpy()).all():
                    logits = nn.functional.one_hot(torch.from_numpy(targets), 6).float()
        return logits


def test_the_learning_rate_is_chosen_on_another_stream_than_the_score() -> None:
    selection, scoring = (WordProblem("s3", 8, 4, seed) for seed in (1, 2))
    good, lucky = Knows(1), Knows(2)
    assert accuracy(lucky, scoring, 2).score == 1.0
    assert score_of_best([lucky, good], selection, scoring, 2) == accuracy(good, scoring, 2)
    assert score_of_best([lucky, Knows(1, 2)], selection, scoring, 2).score == 1.0
    assert score_of_best([lucky], selection, scoring, 2).score == 1.0
