"""The recall task: exact by construction, seeded, and scored against a model that cheats or guesses."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from asiarch.hpc.evaluation.mqar import FILLER, IGNORED, MQAR, accuracy


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
