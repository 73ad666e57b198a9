"""Document boundaries: found in the batch, handed to the mixer, and the loss is that of each document alone."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import RESETTING

from asiarch.hpc.config import TrainingConfig, load_config
from asiarch.hpc.data import document_boundaries
from asiarch.hpc.evaluation.held_out import held_out_loss
from asiarch.hpc.training.checkpoints import CheckpointFolder
from asiarch.hpc.training.ranks import Ranks
from asiarch.hpc.training.trainer import Trainer
from asiarch.models.baselines import BASELINES, baseline_path
from asiarch.models.contract import load_mixer_class
from asiarch.models.language_model import LanguageModel, ModelConfig

END, ROWS, LENGTH = 0, 4, 24


def language_model(program: str = RESETTING) -> LanguageModel:
    return LanguageModel(ModelConfig(16, 2, 16, 2), load_mixer_class(source=program), 24)


def batch(step: int = 0) -> tuple[np.ndarray, np.ndarray]:
    tokens = np.random.default_rng(step).integers(0, 6, (ROWS, LENGTH + 1))
    return tokens[:, :-1].copy(), tokens[:, 1:].copy()


@given(st.lists(st.lists(st.integers(0, 3), min_size=5, max_size=5), min_size=1, max_size=4))
@settings(deadline=None)
def test_a_document_begins_with_the_end_token_before_it_and_with_a_row(rows: list[list[int]]) -> None:
    begins = []
    for number, row in enumerate(rows):
        begins += [5 * number + place for place, token in enumerate(row) if place == 0 or token == END]
    found = document_boundaries(np.array(rows), END)
    assert found.tolist() == [*begins, 5 * len(rows)]
    assert found.dtype == np.int32


@pytest.mark.parametrize(
    "program", [RESETTING, *(baseline_path(name).read_text() for name in BASELINES)], ids=["own", *BASELINES]
)
def test_the_loss_of_packed_documents_is_that_of_each_alone(program: str) -> None:
    model, (inputs, targets) = language_model(program), batch()
    boundaries = document_boundaries(inputs, END)
    assert len(boundaries) > ROWS + 5
    packed = model(torch.from_numpy(inputs), torch.from_numpy(targets), torch.from_numpy(boundaries))
    tokens, wanted = torch.from_numpy(inputs).flatten(), torch.from_numpy(targets).flatten()
    total = 0.0
    for begin, end in itertools.pairwise(boundaries):
        total += (end - begin) * model(tokens[None, begin:end], wanted[None, begin:end]).item()
    assert packed.item() == pytest.approx(total / inputs.size, rel=1e-6)
    seeing_all = model(torch.from_numpy(inputs), torch.from_numpy(targets))
    assert abs(seeing_all.item() - packed.item()) > 1e-4
    model.activation_checkpointing = True
    again = model(torch.from_numpy(inputs), torch.from_numpy(targets), torch.from_numpy(boundaries))
    assert again.item() == packed.item()


@pytest.fixture(scope="module")
def training(one_rank: None, tmp_path_factory: pytest.TempPathFactory) -> TrainingConfig:
    path = tmp_path_factory.mktemp("config") / "c.yaml"
    path.write_text("name: c\npreset: demo\nseed: 0\ntraining: {log_every: 2}\n")
    return load_config(path).training


class Steps:
    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        return batch(step)


def trained(training: TrainingConfig, folder: Path, rows: int, document_end: int | None = END) -> Trainer:
    config = training.model_copy(update={"micro_batch_tokens": rows * LENGTH})
    trainer = Trainer(
        language_model(),
        Steps(),
        lambda _: 0.01,
        config,
        CheckpointFolder(folder),
        0,
        Ranks(),
        document_end,
    )
    trainer.train(6, lambda _: None, lambda: False)
    return trainer


def test_training_and_held_out_text_have_boundaries(training: TrainingConfig, tmp_path: Path) -> None:
    """However the batch is cut, training sees the same documents; PyTorch alone gives the same losses."""
    whole, cut = (trained(training, tmp_path / str(rows), rows) for rows in (ROWS, 1))
    assert cut.progress.curves.loss == pytest.approx(whole.progress.curves.loss, rel=1e-5)
    without = trained(training, tmp_path / "without", ROWS, document_end=None)
    assert abs(without.progress.curves.loss[0] - whole.progress.curves.loss[0]) > 1e-5
    first = language_model()
    inputs, targets = (torch.from_numpy(part) for part in batch(0))
    boundaries = torch.from_numpy(document_boundaries(inputs.numpy(), END))
    expected = first(inputs, targets, boundaries).item()
    found = held_out_loss(first, batch(0), 3, Ranks(), END)
    assert found.loss == pytest.approx(expected, rel=1e-6)
    assert held_out_loss(first, batch(0), 3, Ranks()).loss != pytest.approx(expected, rel=1e-6)
    assert whole.engine.backward(inputs, targets, boundaries) < expected
