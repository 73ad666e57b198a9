"""Synthetic tasks: small exact problems that tell mechanisms of token mixing apart in CPU-minutes.

Each task is a seeded generator of batches, a pure function of (seed, step), with its answers exact by
construction and its chance level known. Small models of the candidate's mixer are trained on one stream of a task,
one for each learning rate; the one that does best on a second stream is scored on a third.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import nn

from asiarch.hpc.config_evaluation import (
    EvaluationConfig,
    FuzzyRecallConfig,
    MQARConfig,
    NeedleConfig,
    RecallConfig,
    SelectiveCopyingConfig,
    TaskName,
    VocabularyTaskConfig,
)
from asiarch.hpc.evaluation.copying import SelectiveCopying
from asiarch.hpc.evaluation.induction import Induction
from asiarch.hpc.evaluation.mad import Compression, Decoded, FuzzyRecall, Memorization, Recall
from asiarch.hpc.evaluation.mqar import MQAR
from asiarch.hpc.evaluation.needle import Needle
from asiarch.hpc.evaluation.state_tracking import WordProblem
from asiarch.models.language_model import IGNORED_TARGET, LanguageModel


class SyntheticTask(Protocol):
    """A seeded generator of batches.

    vocabulary: number of tokens. chance: the accuracy of guessing among all answers that could be.
    """

    @property
    def vocabulary(self) -> int: ...

    @property
    def chance(self) -> float: ...

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Batch `step`: inputs and targets, int64, (batch_size, length); targets are -100 where none is asked."""
        ...


def synthetic_task(
    name: TaskName, settings: EvaluationConfig, seed: int, scoring: bool = False
) -> SyntheticTask:
    """The stream `seed` of a task with the sizes that a campaign gives it.

    Args:
        scoring: as it is scored, which for the needle is at a length beyond the trained one.
    """
    match sizes := settings.task(name):
        case MQARConfig():
            return MQAR(sizes.pairs, sizes.vocabulary, sizes.length, sizes.batch_size, seed)
        case SelectiveCopyingConfig():
            return SelectiveCopying(sizes.items, sizes.vocabulary, sizes.length, sizes.batch_size, seed)
        case RecallConfig():
            return Recall(sizes.vocabulary, sizes.noise, sizes.length, sizes.batch_size, seed)
        case FuzzyRecallConfig():
            return FuzzyRecall(
                sizes.pairs, sizes.longest, sizes.vocabulary, sizes.length, sizes.batch_size, seed
            )
        case NeedleConfig():
            length = sizes.length * (sizes.reach if scoring else 1)
            return Needle(sizes.vocabulary, length, sizes.batch_size, seed)
        case VocabularyTaskConfig():
            kind = Memorization if name == "memorization" else Compression
            return kind(sizes.vocabulary, sizes.length, sizes.batch_size, seed)
    if name == "induction":
        return Induction(sizes.length, sizes.batch_size, seed)
    return WordProblem(name, sizes.length, sizes.batch_size, seed)


def task_model(name: TaskName, model: LanguageModel, length: int, seed: int) -> nn.Module:
    """The model that learns a task: the language model, for compression with MAD's decoder behind it."""
    return Decoded(model, length, seed) if name == "compression" else model


@dataclass(frozen=True)
class Score:
    """An accuracy over `n` answers and its standard error.

    Answers within a sequence depend on each other, so the error is that of a ratio over independent sequences
    (Cochran, "Sampling Techniques", 3rd ed., eq. 6.13): sqrt(s / (s - 1) x sum of (right - score x asked)^2) / n.
    """

    score: float
    n: int
    standard_error: float

    @classmethod
    def of(cls, right: np.ndarray, asked: np.ndarray) -> "Score":
        """From the right and the asked answers of each sequence, both (sequences,) with two or more."""
        n, sequences = int(asked.sum()), len(asked)
        score = float(right.sum() / n)
        squares = float(((right - score * asked) ** 2).sum())
        return cls(score, n, (squares * sequences / (sequences - 1)) ** 0.5 / n)


@torch.no_grad()
def accuracy(model: nn.Module, task: SyntheticTask, batches: int) -> Score:
    """The share of answers whose most likely token is right, over the first `batches` of `task`.

    The model is called as model(inputs) and returns logits (batch, length, vocabulary).
    """
    device = next(model.parameters()).device
    right, asked = [], []
    model.eval()
    for step in range(batches):
        inputs, targets = task[step]
        guesses = model(torch.from_numpy(inputs).to(device)).argmax(-1).cpu().numpy()
        answers = targets != IGNORED_TARGET
        right.append(((guesses == targets) & answers).sum(axis=1))
        asked.append(answers.sum(axis=1))
    model.train()
    return Score.of(np.concatenate(right), np.concatenate(asked))


def score_of_best(
    models: Sequence[nn.Module], selection: SyntheticTask, scoring: SyntheticTask, batches: int
) -> Score:
    """The score on one stream of the model that is most accurate on another: to choose by the score would flatter it.

    Of equals the first is taken.
    """
    best = models[0]
    if len(models) > 1:
        best = max(models, key=lambda model: accuracy(model, selection, batches).score)
    return accuracy(best, scoring, batches)
