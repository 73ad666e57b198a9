"""MAD's tasks and the needle: read back by rules of the game written anew here."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asiarch.hpc.config import preset_values
from asiarch.hpc.config_evaluation import EvaluationConfig
from asiarch.hpc.evaluation.mad import Compression, Decoded, FuzzyRecall, Memorization, Recall
from asiarch.hpc.evaluation.needle import MARK, Needle
from asiarch.hpc.evaluation.synthetic import accuracy, synthetic_task, task_model
from asiarch.models.baselines import baseline_path
from asiarch.models.contract import load_mixer_class
from asiarch.models.language_model import IGNORED_TARGET as IGNORED
from asiarch.models.language_model import LanguageModel, ModelConfig

SEEDS = st.integers(0, 2**31)
STEPS = st.integers(0, 10**6)


@given(
    keys=st.integers(2, 10),
    spare=st.integers(2, 40),
    noise=st.sampled_from([0.0, 0.1, 0.5]),
    seed=SEEDS,
    step=STEPS,
)
def test_recall_asks_for_the_value_of_each_key_that_comes_again(
    keys: int, spare: int, noise: float, seed: int, step: int
) -> None:
    length = 2 * round((keys + spare) / (1 - noise))
    task = Recall(keys * (3 if noise else 2), noise, length, 3, seed)
    noises = 0
    for row, answers in zip(*(part.tolist() for part in task[step]), strict=True):
        values: dict[int, int] = {}
        place = 0
        while place < length:
            token = row[place]
            if token >= 2 * keys:
                noises += 1
                assert answers[place] == IGNORED
                place += 1
                continue
            assert token < keys <= row[place + 1] < 2 * keys
            assert answers[place] == values.get(token, IGNORED)
            assert values.setdefault(token, row[place + 1]) == row[place + 1]
            assert answers[place + 1] == IGNORED
            place += 2
    assert abs(noises / 3 - noise * length) <= 1.5


@settings(deadline=None)
@given(pairs=st.integers(1, 6), longest=st.integers(1, 3), spare=st.integers(0, 30), seed=SEEDS, step=STEPS)
def test_fuzzy_recall_asks_for_all_of_a_value_whose_key_came_before(
    pairs: int, longest: int, spare: int, seed: int, step: int
) -> None:
    length, half = 2 * longest * (pairs + 1) + spare, 16
    task = FuzzyRecall(pairs, longest, 2 * half, length, 3, seed)
    for row, answers in zip(*(part.tolist() for part in task[step]), strict=True):
        values: dict[tuple[int, ...], list[int]] = {}
        place = 0
        while place < length:
            middle = next((i for i in range(place, length) if row[i] >= half), length)
            end = next((i for i in range(middle, length) if row[i] < half), length)
            key = tuple(row[place:middle])
            asked = [i for i in range(place, end) if answers[i] != IGNORED]
            if key in values and middle < length:
                known = values[key]
                assert row[middle:end] == known[: end - middle]
                # the last value may be cut off by the end of the sequence, its last token asked for or not
                expected = list(range(middle - 1, middle - 1 + len(known)))
                assert asked == [i for i in expected if i < length]
                assert [answers[i] for i in asked] == known[: len(asked)]
            elif end < length:
                assert not asked
                values[key] = row[middle:end]
            place = end
        assert len(values) <= pairs
        assert not any(a != b and b[: len(a)] == a for a in values for b in values)


def test_memorized_facts_are_the_same_in_every_stream_and_one_to_one() -> None:
    facts: dict[int, int] = {}
    for seed in (1, 2):
        inputs, targets = Memorization(17, 32, 64, seed)[3]
        assert (inputs[:, 1::2] == 0).all()
        assert (targets[:, ::2] == IGNORED).all()
        for key, value in zip(
            inputs[:, ::2].ravel().tolist(), targets[:, 1::2].ravel().tolist(), strict=True
        ):
            assert facts.setdefault(key, value) == value
    assert sorted(facts) == list(range(1, 9))
    assert sorted(facts.values()) == list(range(9, 17))


def test_the_decoder_of_compression_sees_the_last_state_and_the_place_alone() -> None:
    size = ModelConfig(vocab_size=9, layers=1, hidden_size=16, num_heads=2)
    language = LanguageModel(size, load_mixer_class(baseline_path("delta_net")), ffn_width=8)
    model = task_model("compression", language, 12, seed=0)
    assert isinstance(model, Decoded)
    inputs, targets = (torch.from_numpy(part) for part in Compression(9, 12, 4, seed=0)[0])
    last = language.hidden(inputs)[:, -1]
    by_hand = torch.stack(
        [
            model.decoder(torch.cat([last, model.places.weight[place].expand(4, -1)], -1))
            for place in range(12)
        ],
        1,
    )
    torch.testing.assert_close(model(inputs), by_hand)
    picked = by_hand.log_softmax(-1)[:, :-1].gather(-1, targets[:, :-1, None])
    torch.testing.assert_close(model(inputs, targets), -picked.mean())
    again = task_model("compression", language, 12, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


@given(length=st.integers(4, 40), seed=SEEDS, step=STEPS)
def test_the_needle_is_what_follows_the_first_mark(length: int, seed: int, step: int) -> None:
    for row, answers in zip(*(part.tolist() for part in Needle(9, length, 8, seed)[step]), strict=True):
        assert row.count(MARK) == 2
        assert row[-1] == MARK
        assert answers[:-1] == [IGNORED] * (length - 1)
        assert answers[-1] == row[row.index(MARK) + 1] != MARK


def test_the_needle_lies_everywhere_and_is_scored_far_beyond_the_trained_length() -> None:
    settings_ = EvaluationConfig.model_validate(preset_values("demo")["evaluation"])
    trained, scored = (synthetic_task("needle", settings_, 0, scoring=flag) for flag in (False, True))
    assert trained[0][0].shape == (32, 32)
    assert scored[0][0].shape == (32, 128)
    places = np.concatenate([(Needle(9, 8, 64, 0)[step][0] == MARK).argmax(axis=1) for step in range(10)])
    assert np.bincount(places, minlength=6).min() > 50
    assert set(places.tolist()) == set(range(6))


def test_a_model_that_finds_the_needle_scores_one() -> None:
    class Finder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused = torch.nn.Parameter(torch.zeros(1))

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            first = (tokens == MARK).int().argmax(dim=1)
            needles = tokens.gather(1, first[:, None] + 1)
            return torch.nn.functional.one_hot(needles.expand_as(tokens), 9).float()

    score = accuracy(Finder(), Needle(9, 64, 16, seed=1), batches=2)
    assert (score.score, score.n) == (1.0, 32)
