"""Downstream benchmarks through the real lm-eval, offline: small tasks of our own, and one of its own from a copy."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lm_eval_tasks import QUESTIONS, write_definitions
from torch import nn

from asiarch.hpc.config import preset_text, preset_values
from asiarch.hpc.config_evaluation import DownstreamConfig
from asiarch.hpc.data.tokenizer import ByteTokenizer
from asiarch.hpc.evaluation.downstream import MixerLM, measure_task, require_tasks
from asiarch.hpc.training.ranks import Ranks
from asiarch.models.errors import UserError


class Bigram(nn.Module):
    """Logits by the byte before; so a likelihood is a product that can be worked out by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(257, 257, generator=torch.Generator().manual_seed(1)))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.table[tokens]


def log_likelihood(model: Bigram, context: bytes, continuation: bytes) -> tuple[float, bool]:
    logs = model.table.detach().double().log_softmax(-1).numpy()
    text = context + continuation
    steps = range(len(context), len(text))
    total = sum(logs[text[i - 1], text[i]] for i in steps)
    return total, all(logs[text[i - 1]].argmax() == text[i] for i in steps)


@pytest.fixture
def definitions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return write_definitions(tmp_path)


def config(**changes: Any) -> DownstreamConfig:
    values = {"tasks": [], "examples": None, "batch_size": 4, "copies": None, "definitions": None}
    return DownstreamConfig.model_validate(values | changes)


def right_answers(model: Bigram, per_byte: bool) -> list[bool]:
    found = []
    for row in QUESTIONS:
        context = str(row["question"]).encode()
        # lm-eval puts a blank between the two
        scores = [log_likelihood(model, context, f" {choice}".encode())[0] for choice in row["choices"]]
        if per_byte:
            scores = [s / len(choice) for s, choice in zip(scores, row["choices"], strict=True)]
        found.append(int(np.argmax(scores)) == row["answer"])
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("name", "per_byte"), [("alphabet", False), ("hellaswag", True)])
@pytest.mark.parametrize("examples", [None, 7])
def test_accuracy_and_error_of_a_task_by_hand(
    definitions: Path, name: str, per_byte: bool, examples: int | None
) -> None:
    model = Bigram()
    settings = config(tasks=[name], definitions=str(definitions), examples=examples)
    require_tasks(settings)
    result = measure_task(model, ByteTokenizer(), name, settings, 64, Ranks())
    right = right_answers(model, per_byte)[:examples]
    assert 0 < sum(right) < len(right)  # else the comparison would show little
    assert result.n == len(right)
    assert result.score == pytest.approx(np.mean(right))
    assert result.standard_error == pytest.approx(np.std(right, ddof=1) / math.sqrt(len(right)))


def test_likelihoods_in_any_batch_and_order_and_of_cut_contexts() -> None:
    model, tokenizer = Bigram(), ByteTokenizer()
    rng = np.random.default_rng(0)
    requests = []
    for _ in range(23):
        context, continuation = (rng.integers(97, 123, rng.integers(1, 30)).tolist() for _ in range(2))
        requests.append((("", ""), context, continuation))
    for batch_size, length in ((1, 100), (5, 100), (64, 31)):
        lm = MixerLM(model, tokenizer, length, batch_size, Ranks())
        scores = lm._loglikelihood_tokens(requests)
        for (total, greedy), (_, context, continuation) in zip(scores, requests, strict=True):
            expected = log_likelihood(model, bytes(context), bytes(continuation))
            assert total == pytest.approx(expected[0], rel=1e-5)
            assert greedy == expected[1]


def test_a_rolling_likelihood_takes_every_token_once() -> None:
    model = Bigram()
    text = "the quick brown fox jumps over the lazy dog"

    class Request:
        args = (text,)

    lm = MixerLM(model, ByteTokenizer(), 8, 3, Ranks())
    logs = model.table.detach().double().log_softmax(-1).numpy()
    by_hand = logs[256, ord("t")] + log_likelihood(model, b"t", text[1:].encode())[0]
    assert lm.loglikelihood_rolling([Request()]) == [pytest.approx(by_hand, rel=1e-5)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("no_such_task", r"lm-eval 0\.\d+\.\d+ has no task 'no_such_task'"),
        ("piqa", "the copy of piqa cannot be read"),
        ("says", "says asks for generated text"),
    ],
)
def test_what_cannot_be_measured_is_said_before_a_trial_runs(
    definitions: Path, task: str, message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        require_tasks(config(tasks=[task], definitions=str(definitions)))
    assert "\n" not in str(error.value)


# two rows of each benchmark as its authors publish them: where lm-eval looks for it, and the rows
TEXT = ["Water is made of hydrogen and", "Plants take up light and"]
PUBLISHED: dict[str, tuple[str, str, dict[str, list[Any]]]] = {
    "lambada_openai": ("EleutherAI/lambada_openai", "default", {"text": [f"{text} air" for text in TEXT]}),
    "hellaswag": (
        "Rowan/hellaswag",
        "default",
        {
            "activity_label": ["Chemistry", "Biology"],
            "ctx_a": TEXT,
            "ctx_b": ["then", "so"],
            "endings": [["a b", "cd", "efg", "hij k"], ["xyz", "z", "yx", "w w w"]],
            "label": ["1", "3"],
        },
    ),
    "piqa": (
        "baber/piqa",
        "default",
        {"goal": TEXT, "sol1": ["a", "b"], "sol2": ["cc", "d"], "label": [0, 1]},
    ),
    "arc_easy": ("allenai/ai2_arc", "ARC-Easy", {}),
    "arc_challenge": ("allenai/ai2_arc", "ARC-Challenge", {}),
    "winogrande": (
        "allenai/winogrande",
        "winogrande_xl",
        {
            "sentence": ["The cup broke, for the _ fell.", "Ann paid, since _ was asked."],
            "option1": ["cup", "Ann"],
            "option2": ["table", "Bob"],
            "answer": ["1", "2"],
        },
    ),
    "boolq": ("aps/super_glue", "boolq", {"question": TEXT, "passage": TEXT, "label": [0, 1]}),
    "social_iqa": (
        "lighteval/siqa",
        "default",
        {
            "context": TEXT,
            "question": ["What now?", "Why?"],
            **{f"answer{letter}": [f"{letter} one", f"{letter} two"] for letter in "ABC"},
            "label": ["1", "3"],
        },
    ),
    "sciq": (
        "allenai/sciq",
        "default",
        {
            "question": TEXT,
            "support": TEXT,
            "correct_answer": ["oxygen", "carbon dioxide"],
            **{f"distractor{n}": [f"iron{n}", f"gold{n}"] for n in (1, 2, 3)},
        },
    ),
}
ARC = {
    "question": TEXT,
    "choices": [
        {"text": ["a", "bb", "c"], "label": ["A", "B", "C"]},
        {"text": ["x", "y"], "label": ["1", "2"]},
    ],
    "answerKey": ["B", "1"],
}


def leave_copy(folder: Path, published: str, name: str, rows: dict[str, list[Any]]) -> None:
    """A cache laid out as `datasets` leaves one behind after a download."""
    import datasets

    table = datasets.Dataset.from_dict(rows)
    files = {}
    for split in ("train", "validation", "test"):
        files[split] = str(folder / f"{split}.parquet")
        table.to_parquet(files[split])
    scratch = folder / f"made-{name}"
    datasets.load_dataset("parquet", data_files=files, cache_dir=str(scratch))
    made = next(scratch.rglob("dataset_info.json")).parent
    copy = folder / "copies" / "datasets" / published.replace("/", "___") / name / "0.0.0" / ("0" * 40)
    copy.parent.mkdir(parents=True)
    made.rename(copy)
    info = copy / "dataset_info.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"config_name": name}))
    for file in copy.glob("parquet-*.arrow"):
        file.rename(file.with_name(file.name.replace("parquet-", f"{published.rpartition('/')[2]}-")))


@pytest.mark.slow
def test_the_nine_benchmarks_from_downloaded_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As lm-eval defines them, offline; the error of an accuracy is that of as many coin tosses."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "elsewhere")
    for published, name, rows in PUBLISHED.values():
        leave_copy(tmp_path, published, name, rows or ARC)
    settings = config(tasks=list(PUBLISHED), copies=str(tmp_path / "copies"))
    require_tasks(settings)
    for name in PUBLISHED:
        result = measure_task(Bigram(), ByteTokenizer(), name, settings, 256, Ranks())
        assert result.n == 2
        assert result.score in (0.0, 0.5, 1.0), name
        assert result.standard_error == pytest.approx(math.sqrt(result.score * (1 - result.score)))


def test_the_presets_name_the_nine_and_how_much_of_each() -> None:
    examples = {
        preset: preset_values(preset)["evaluation"]["downstream"]["examples"]
        for preset in ("explore", "verify", "final")
    }
    assert examples == {"explore": 500, "verify": None, "final": None}
    for preset in examples:
        assert set(PUBLISHED) <= set(preset_text(preset).split())
