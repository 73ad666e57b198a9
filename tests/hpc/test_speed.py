"""Speed and memory: what is timed, what a cache must give, and what becomes of programs that have none."""

import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from asiarch.hpc.config_evaluation import SpeedConfig
from asiarch.hpc.evaluation import speed
from asiarch.hpc.evaluation.decoding import cache_bytes, decode, why_not_decodable
from asiarch.hpc.evaluation.speed import measure_speed
from asiarch.hpc.training.utilisation import PeakMemory
from asiarch.models.baselines import baseline_path
from asiarch.models.contract import load_mixer_class
from asiarch.models.language_model import LanguageModel, ModelConfig

SIZE = ModelConfig(vocab_size=50, layers=2, hidden_size=16, num_heads=2)
SETTINGS = SpeedConfig(lengths=(12, 40), tokens=30, repeats=3, decoded=2)


class RunningSum(nn.Module):
    """The projected sum of all positions so far; its cache is that sum."""

    def __init__(self, hidden_size: int, num_heads: int, layer_idx: int | None = None, **config: Any) -> None:
        super().__init__()
        self.layer_idx = layer_idx
        self.proj = nn.Linear(hidden_size, hidden_size)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: Any = None,
        past_key_values: Any = None,
        use_cache: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, None, Any]:
        sums = hidden_states.cumsum(dim=1)
        if past_key_values is not None and len(past_key_values) > self.layer_idx:
            sums = sums + past_key_values[self.layer_idx]["recurrent_state"]
        if use_cache:
            past_key_values.update(
                recurrent_state=sums[:, -1:], layer_idx=self.layer_idx, offset=hidden_states.shape[1]
            )
        return self.proj(sums), None, past_key_values


class Forgets(RunningSum):
    """Takes a cache and makes no use of it."""

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return super().forward(hidden_states)


class Refuses(RunningSum):
    def forward(self, hidden_states: torch.Tensor, *args: Any, use_cache: bool = False, **kwargs: Any) -> Any:
        if use_cache:
            raise NotImplementedError("no cache here")
        return super().forward(hidden_states)


def model(mixer: type[nn.Module]) -> LanguageModel:
    return LanguageModel(SIZE, mixer, 24, seed=0)


def test_decoding_in_pieces_gives_what_the_whole_gives() -> None:
    language = model(RunningSum)
    tokens = torch.randint(0, 50, (3, 11), generator=torch.Generator().manual_seed(0))
    first, cache = decode(language, tokens[:, :6])
    rest = [decode(language, tokens[:, place : place + 1], cache)[0] for place in range(6, 11)]
    torch.testing.assert_close(torch.cat([first, *rest], dim=1), language(tokens))
    assert cache_bytes(cache) == 2 * 3 * 16 * 4  # layers, rows, channels, float32
    assert why_not_decodable(language, RunningSum) is None


@pytest.mark.parametrize(
    ("mixer", "reason"),
    [
        (Forgets, r"with past_key_values its outputs differ by \d+\.\d% from those without"),
        (Refuses, "NotImplementedError: no cache here"),
    ],
)
def test_a_program_without_a_cache_is_timed_in_training_alone(mixer: type[nn.Module], reason: str) -> None:
    language = model(mixer)
    obstacle = why_not_decodable(language, mixer)
    assert obstacle is not None
    assert re.fullmatch(reason, obstacle)
    columns = measure_speed(language, SETTINGS, decodes=False)
    assert all(math.isnan(value) for name in columns if name.startswith("decode_") for value in columns[name])
    assert min(columns["train_tokens_per_s"]) > 0


def test_each_length_passes_as_many_tokens_as_training_does() -> None:
    language = model(RunningSum)
    columns = measure_speed(language, SETTINGS, decodes=True)
    assert columns["length"] == [12, 40]
    assert columns["rows"] == [2, 1]
    assert columns["repeats"] == [3, 3]
    assert min(*columns["train_tokens_per_s"], *columns["decode_tokens_per_s"]) > 0
    assert all(parameter.grad is None for parameter in language.parameters())
    seen: list[tuple[int, bool]] = []
    language.register_forward_hook(
        lambda _, args, __: seen.append((args[0].numel(), torch.is_grad_enabled()))
    )
    again = measure_speed(language, SETTINGS, decodes=False)
    assert seen == [(24, True)] * 5 + [(40, True)] * 5  # to warm up, for memory, three timed
    assert again.keys() == columns.keys()


def test_speed_and_its_error_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, steps = [0.0], iter([99.0, 99.0, 2.0, 4.0, 5.0])

    def work() -> None:
        clock[0] += next(steps)

    monkeypatch.setattr(speed.time, "perf_counter", lambda: clock[0])
    found = speed._measured(work, 20, 3, torch.device("cpu"), model(RunningSum))
    rates = [10.0, 5.0, 4.0]
    assert found.tokens_per_s == pytest.approx(np.mean(rates))
    assert found.standard_error == pytest.approx(np.std(rates, ddof=1) / math.sqrt(3))


def test_a_length_without_room_in_memory_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    language = model(RunningSum)

    def full(tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if tokens.shape[1] > 12:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return LanguageModel.forward(language, tokens, targets)

    monkeypatch.setattr(language, "forward", full)
    assert measure_speed(language, SETTINGS, decodes=False)["length"] == [12]
    assert "a length of 40 does not fit into memory" in capsys.readouterr().out


def test_peak_memory_sees_what_was_held_and_is_gone() -> None:
    size = 64 << 20
    first = PeakMemory(torch.device("cpu"))
    block = torch.ones(size // 4)
    del block
    held = first.bytes()
    if math.isnan(held):
        pytest.skip("this host does not let a process set its peak memory back")
    second = PeakMemory(torch.device("cpu"))
    assert 0.9 * size < held < 1.25 * size  # pages are counted with some delay
    assert second.bytes() < size / 4


@pytest.mark.parametrize("name", ["delta_net", "gla", "softmax_attention"])
def test_the_baselines_decode_with_their_caches(name: str) -> None:
    mixer = load_mixer_class(baseline_path(name))
    language = model(mixer)
    assert why_not_decodable(language, mixer) is None
    columns = measure_speed(language, SETTINGS, decodes=True)
    assert min(*columns["train_tokens_per_s"], *columns["decode_tokens_per_s"]) > 0
