"""Training: the same losses after any interruption, the learning rate by its formula, divergence as a failure."""

import itertools
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asiarch.hpc.config import TrainingConfig, load_config
from asiarch.hpc.failures import Diverged
from asiarch.hpc.training import trainer as trainer_module
from asiarch.hpc.training.checkpoints import CheckpointFolder
from asiarch.hpc.training.learning_rate import cosine, schedule, warmup_stable_decay
from asiarch.hpc.training.micro_batch import fitting_tokens, rows_that_fit
from asiarch.hpc.training.ranks import Ranks
from asiarch.hpc.training.trainer import Curves, Trainer, accumulation
from asiarch.models.errors import UserError


@pytest.fixture(scope="module")
def training(one_rank: None, tmp_path_factory: pytest.TempPathFactory) -> TrainingConfig:
    path = tmp_path_factory.mktemp("config") / "c.yaml"
    path.write_text("name: c\npreset: demo\nseed: 0\ntraining: {log_every: 4, gradient_clipping: 0.5}\n")
    return load_config(path).training


class Batches:
    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(step)
        inputs = rng.integers(0, 16, (4, 8))
        return inputs, (inputs * 3 + 1) % 16


class Model(torch.nn.Module):
    """Has dropout, so that the generator's state is part of what must be resumed."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.table = torch.nn.Parameter(torch.randn(16, 16, generator=generator))
        self.gain = torch.nn.Parameter(torch.ones(16))

    def forward(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        hidden = torch.nn.functional.dropout(self.table[inputs] * self.gain, 0.2, self.training)
        return torch.nn.functional.cross_entropy(hidden.flatten(0, 1), targets.flatten())


SCHEDULE = cosine(peak=0.05, floor=0.1, warmup_steps=5, total_steps=40)


def trainer(training: TrainingConfig, folder: Path, model: torch.nn.Module | None = None) -> Trainer:
    return Trainer(model or Model(), Batches(), SCHEDULE, training, CheckpointFolder(folder), 7, Ranks())


def exact(curves: Curves) -> tuple[list[int], list[float], list[float], list[float]]:
    return curves.step, curves.loss, curves.grad_norm, curves.lr


def never() -> bool:
    return False


def test_a_lone_rank_sums_no_gradients(
    training: TrainingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def summed() -> None:
        raise AssertionError("gradients were summed over one rank")

    run = trainer(training, tmp_path)
    monkeypatch.setattr(run.engine.deepspeed, "allreduce_gradients", summed)
    assert run.train(2, lambda _: None, never)


@pytest.mark.slow
def test_compiled_training_gives_the_losses_of_eager_training_and_resumes(
    training: TrainingConfig, tmp_path: Path
) -> None:
    class Plain(Model):
        def forward(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            hidden = self.table[inputs] * self.gain  # dropout draws other numbers when it is compiled
            return torch.nn.functional.cross_entropy(hidden.flatten(0, 1), targets.flatten())

    compiling = training.model_copy(update={"compile": True})
    eager = trainer(training, tmp_path / "eager", Plain())
    eager.train(16, lambda _: None, never)
    compiled = trainer(compiling, tmp_path / "compiled", Plain())
    compiled.train(16, lambda _: None, never)
    assert compiled.model._compiled_call_impl is not None
    assert eager.model._compiled_call_impl is None
    assert compiled.progress.curves.loss == pytest.approx(eager.progress.curves.loss, rel=1e-5)
    part = trainer(compiling, tmp_path / "parts", Plain())
    assert not part.train(16, lambda _: None, lambda: part.progress.step >= 7)
    last = trainer(compiling, tmp_path / "parts", Plain())
    assert last.train(16, lambda _: None, never)
    assert exact(last.progress.curves) == exact(compiled.progress.curves)


@pytest.mark.parametrize("stops", [[4], [7, 13], [1, 2, 3, 8, 12, 13, 27, 28, 32, 39]], ids=str)
def test_stopped_and_resumed_training_gives_the_same_numbers(
    training: TrainingConfig, tmp_path: Path, stops: list[int]
) -> None:
    whole = trainer(training, tmp_path / "whole")
    assert whole.train(40, lambda _: None, never)
    for stop in stops:
        part = trainer(training, tmp_path / "parts")
        assert not part.train(40, lambda _: None, lambda part=part, stop=stop: part.progress.step >= stop)
        assert part.progress.step == stop
    last = trainer(training, tmp_path / "parts")
    assert last.progress.step == stops[-1]
    assert last.train(40, lambda _: None, never)
    assert exact(last.progress.curves) == exact(whole.progress.curves)
    for one, two in zip(last.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_rung_continues_from_the_one_below(training: TrainingConfig, tmp_path: Path) -> None:
    whole = trainer(training, tmp_path / "whole")
    whole.train(22, lambda _: None, never)
    whole.train(40, lambda _: None, never)
    low = trainer(training, tmp_path / "rung0")
    low.train(22, lambda _: None, never)
    low.save()
    low.finish_save()
    folder = CheckpointFolder(tmp_path / "rung1", before=CheckpointFolder(tmp_path / "rung0"))
    high = Trainer(Model(), Batches(), SCHEDULE, training, folder, 7, Ranks())
    assert high.progress.step == 22
    high.train(40, lambda _: None, never)
    assert exact(high.progress.curves) == exact(whole.progress.curves)


def test_a_missing_rung_below_is_said(training: TrainingConfig, tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "rung1", before=CheckpointFolder(tmp_path / "rung0"))
    with pytest.raises(FileNotFoundError, match="no checkpoint to continue from"):
        Trainer(Model(), Batches(), SCHEDULE, training, folder, 7, Ranks())


def test_a_half_written_checkpoint_is_not_taken(training: TrainingConfig, tmp_path: Path) -> None:
    first = trainer(training, tmp_path)
    first.train(8, lambda _: None, never)
    first.save()
    first.finish_save()
    (tmp_path / ".writing-000012").mkdir()
    (tmp_path / ".writing-000012" / "rubbish").write_text("x")
    assert trainer(training, tmp_path).progress.step == 8


def test_engine_updates_equal_plain_adamw(training: TrainingConfig, tmp_path: Path) -> None:
    """Against a loop of PyTorch alone: clipping, decay of matrices only, and the schedule."""
    through_engine = trainer(training, tmp_path)
    through_engine.train(12, lambda _: None, never)
    model = Model()
    groups = [{"params": [model.table], "weight_decay": 0.1}, {"params": [model.gain], "weight_decay": 0.0}]
    plain = torch.optim.AdamW(groups, betas=(0.9, 0.95))
    torch.manual_seed(7)
    for step in range(12):
        for group in plain.param_groups:
            group["lr"] = SCHEDULE(step)
        inputs, targets = (torch.from_numpy(part) for part in Batches()[step])
        plain.zero_grad()
        model(inputs, targets).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        plain.step()
    for one, two in zip(through_engine.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


def test_a_loss_that_is_not_finite_is_a_divergence(training: TrainingConfig, tmp_path: Path) -> None:
    class Broken(Model):
        def forward(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return super().forward(inputs, targets) / torch.zeros(())

    with pytest.raises(Diverged, match="between steps 0 and 4"):
        trainer(training, tmp_path, Broken()).train(8, lambda _: None, never)


def test_the_schedule_is_linear_then_cosine() -> None:
    rates = [SCHEDULE(step) for step in range(41)]
    assert rates[:5] == pytest.approx([0.01, 0.02, 0.03, 0.04, 0.05])
    assert rates[5] == pytest.approx(0.05)
    middle = 5 + (40 - 5) / 2
    expected = 0.05 * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (22 - 5) / 35)))
    assert rates[22] == pytest.approx(expected)
    assert abs(middle - 22.5) < 1e-9
    assert rates[40] == pytest.approx(0.005)
    assert all(a >= b for a, b in itertools.pairwise(rates[5:]))


def test_time_before_training_is_not_training(training: TrainingConfig, tmp_path: Path) -> None:
    late = trainer(training, tmp_path)
    time.sleep(0.5)
    late.train(8, lambda _: None, never)
    assert late.progress.seconds < 0.4


def test_warmup_stable_decay_by_its_formula() -> None:
    rates = [warmup_stable_decay(0.1, 0.2, 10, 20, 100)(step) for step in range(101)]
    assert rates[:10] == pytest.approx([0.01 * (step + 1) for step in range(10)])
    assert rates[10:81] == pytest.approx([0.1] * 71)
    assert rates[90] == pytest.approx(0.1 * (0.2 + 0.8 * 0.5))
    assert rates[100] == pytest.approx(0.02)


@given(rows=st.integers(1, 64), length=st.integers(1, 64), limit=st.integers(64, 4096))
def test_accumulation_is_the_least_that_fits(rows: int, length: int, limit: int) -> None:
    parts = accumulation(rows, length, limit)
    assert rows % parts == 0
    assert rows // parts * length <= limit
    fewer = [n for n in range(1, parts) if rows % n == 0]
    assert all(rows // n * length > limit for n in fewer)


def test_a_row_that_does_not_fit_is_said() -> None:
    with pytest.raises(UserError, match="less than one row of 65 tokens"):
        accumulation(4, 65, 64)


def test_the_logged_utilisation_counts_the_matrix_products(training: TrainingConfig, tmp_path: Path) -> None:
    """Forward and both products of the backward pass of one known linear layer."""

    class Linear(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(16, 32)
            self.head = torch.nn.Linear(32, 16, bias=False)

        def forward(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.cross_entropy(
                self.head(self.table(inputs)).flatten(0, 1), targets.flatten()
            )

    run = trainer(training, tmp_path, Linear())
    run.train(8, lambda _: None, never)
    assert run._flops_per_step == 4 * 3 * 2 * 8 * 32 * 16
    curves = run.progress.curves
    assert all(0 < share < 1.5 for share in curves.flops_utilisation)
    assert all(0 <= share < 1 for share in curves.data_wait)
    assert curves.memory_bytes[-1] > 50e6


def test_a_rank_holds_no_more_than_a_micro_batch_at_a_time(training: TrainingConfig, tmp_path: Path) -> None:
    rows: list[int] = []

    class Counting(Model):
        def forward(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            rows.append(len(inputs))
            return super().forward(inputs, targets)

    config = training.model_copy(update={"micro_batch_tokens": 8})
    run = trainer(config, tmp_path, Counting())
    rows.clear()  # of counting the arithmetic
    run.train(2, lambda _: None, never)
    assert rows == [1] * 8


def test_what_fits_is_found_once_and_kept(
    training: TrainingConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another micro-batch would round differently: a trial that goes on has that of its first start."""
    config = training.model_copy(update={"micro_batch_tokens": None})
    found = iter((16, 16, 8))
    monkeypatch.setattr(trainer_module, "fitting_tokens", lambda *_: next(found))
    whole = trainer(config, tmp_path / "whole")
    whole.train(12, lambda _: None, never)
    part = trainer(config, tmp_path / "parts")
    part.train(12, lambda _: None, lambda: part.progress.step >= 6)
    last = trainer(config, tmp_path / "parts")
    last.train(12, lambda _: None, never)
    assert whole.micro_batch_tokens == last.micro_batch_tokens == 16
    assert exact(last.progress.curves) == exact(whole.progress.curves)
    other = trainer(config, tmp_path / "other")
    other.train(12, lambda _: None, never)
    assert other.micro_batch_tokens == 8


def test_on_a_cpu_a_bound_fits(training: TrainingConfig, tmp_path: Path) -> None:
    assert trainer(training, tmp_path).micro_batch_tokens == 16_384
    tokens = torch.zeros(2, 20_000, dtype=torch.int64)
    assert fitting_tokens(Model(), tokens, tokens, training) == 20_000


@given(fixed=st.integers(0, 10**9), each=st.integers(1, 10**9), free=st.integers(0, 10**11))
def test_as_many_rows_fit_as_the_free_memory_holds(fixed: int, each: int, free: int) -> None:
    rows = rows_that_fit(free, fixed + each, fixed + 2 * each)
    assert rows == 1 or fixed + rows * each <= 0.8 * free
    assert fixed + (rows + 1) * each > 0.8 * free


@pytest.mark.parametrize(("name", "expected"), [("cosine", cosine), ("wsd", warmup_stable_decay)])
def test_the_configuration_chooses_the_schedule(
    training: TrainingConfig, name: str, expected: Callable[..., Callable[[int], float]]
) -> None:
    chosen = schedule(training.model_copy(update={"schedule": name}), 0.1, 100)
    decay = () if name == "cosine" else (round(training.decay * 100),)
    by_hand = expected(0.1, training.min_learning_rate_ratio, round(training.warmup * 100), *decay, 100)
    assert [chosen(step) for step in range(100)] == [by_hand(step) for step in range(100)]
