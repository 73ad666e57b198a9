"""Held-out loss, its error, bits per byte; and the parts of an evaluation that survive a kill."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from corpora import corpus, make_folder
from torch import nn

from asiarch.hpc.data import evaluation_windows, open_dataset, prepare
from asiarch.hpc.evaluation.held_out import held_out_loss
from asiarch.hpc.evaluation.parts import Parts
from asiarch.hpc.failures import PartFailedError, classify
from asiarch.hpc.training.ranks import Ranks


class Bigram(nn.Module):
    """Logits that depend on the token before, and some dropout that must be off."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.table = nn.Parameter(torch.randn(vocabulary, vocabulary, generator=generator))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(self.table, 0.5, self.training)[tokens]


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_the_loss_and_its_error_by_hand(batch_size: int) -> None:
    rng = np.random.default_rng(0)
    windows = (rng.integers(0, 7, (10, 5)), rng.integers(0, 7, (10, 5)))
    model = Bigram(7)
    found = held_out_loss(model, windows, batch_size, Ranks())
    logs = model.table.detach().double().log_softmax(-1).numpy()
    means = np.array([-logs[row, answers].mean() for row, answers in zip(*windows, strict=True)])
    assert found.loss == pytest.approx(means.mean(), rel=1e-6)
    assert found.standard_error == pytest.approx(np.std(means, ddof=1) / math.sqrt(10), rel=1e-5)
    assert found.windows == 10
    assert model.training


def test_bits_per_byte_do_not_depend_on_the_tokenizer(tmp_path: Path) -> None:
    """A model that knows nothing spends log2(vocabulary) bits a token, and a text has as many bytes as it has."""
    from asiarch.hpc.data.tokenizer_training import train_tokenizer

    source = make_folder(tmp_path / "source", corpus(300))
    train_tokenizer([source], tmp_path / "bpe.json", vocabulary=400, sample_bytes=10**7)
    for tokenizer in ("bytes", tmp_path / "bpe.json"):
        out = tmp_path / f"data-{Path(tokenizer).stem}"
        manifest = prepare([source], out, tokenizer=tokenizer, validation=0.3, test=0.3)
        split = open_dataset(out).split("validation")
        size = manifest.vocab_size
        model = Bigram(size)
        model.table.data.zero_()
        windows = evaluation_windows(split, length=16, tokens=10**6)
        found = held_out_loss(model, windows, 64, Ranks())
        texts = [open_dataset(out).tokenizer().decode(np.concatenate(split.shards))]
        bits = split.tokens * math.log2(size)
        size_in_bytes = sum(len(text.encode()) for text in texts)
        assert found.bits_per_byte(manifest.bytes_per_token("validation")) == pytest.approx(
            bits / size_in_bytes
        )
        if tokenizer == "bytes":
            ends = manifest.documents("validation")
            assert manifest.bytes_per_token("validation") == pytest.approx(1 - ends / split.tokens)


def test_parts_are_measured_once_and_a_failed_one_again(tmp_path: Path) -> None:
    calls: list[str] = []

    def measured(name: str, score: float | None) -> dict[str, float]:
        calls.append(name)
        if score is None:
            raise ZeroDivisionError("no luck")
        return {"score": score, "training_s": 0.5}

    first = Parts(tmp_path / "evaluation", Ranks())
    assert first.measure("a", lambda: measured("a", 1.0))["score"] == 1.0
    assert first.measure("b", lambda: measured("b", None)) == {}
    assert first.measure("c", lambda: measured("c", 3.0))["training_s"] == 0.5
    with pytest.raises(PartFailedError, match="b: ZeroDivisionError: no luck") as failed:
        first.require_all()
    assert isinstance(failed.value.__cause__, ZeroDivisionError)
    assert classify(failed.value, Path("elsewhere.py")) == "training_error"
    assert classify(failed.value, Path(__file__)) == "candidate_code"
    second = Parts(tmp_path / "evaluation", Ranks())
    scores = [second.measure(name, lambda name=name: measured(name, 2.0))["score"] for name in "abc"]
    second.require_all()
    assert scores == [1.0, 2.0, 3.0]
    assert calls == ["a", "b", "c", "b"]


def test_what_the_rung_below_knows_is_not_measured(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "evaluation", Ranks())
    known = {"score": 0.25, "training_s": 0.0, "evaluation_s": 0.0}
    assert parts.measure("a", lambda: pytest.fail("measured again"), below=known) == known
    assert not (tmp_path / "evaluation").exists()
