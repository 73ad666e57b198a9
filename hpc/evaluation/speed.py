"""Speed and memory at several lengths: forward and backward as in training, and decoding with the mixer's own cache.

Measured on a model of the trial's size with fresh weights, on which speed does not depend: by each rank alone, without
optimiser and communication, and without torch.compile.
"""

import gc
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from asiarch.hpc.config_evaluation import SpeedConfig
from asiarch.hpc.evaluation.decoding import cache_bytes, decode
from asiarch.hpc.training.utilisation import PeakMemory
from asiarch.models.language_model import LanguageModel


@dataclass(frozen=True)
class Speed:
    """Tokens a second over repeats, the standard error of their mean, and memory; see `SpeedTable` of the results."""

    tokens_per_s: float
    standard_error: float
    memory_bytes: float


NOT_MEASURED = Speed(math.nan, math.nan, math.nan)


def measure_speed(model: LanguageModel, config: SpeedConfig, decodes: bool) -> dict[str, list[float]]:
    """The columns of `asiarch.results.record.SpeedTable`, a list each; a length that memory cannot hold is left out.

    Args:
        decodes: whether the mixer has a cache to decode with; without one those columns are NaN.
    """
    columns: dict[str, list[float]] = {}
    for length in config.lengths:
        rows = max(1, config.tokens // length)
        try:
            trained = _training(model, rows, length, config.repeats)
            decoded = _decoding(model, length, config) if decodes else NOT_MEASURED
        except torch.OutOfMemoryError:
            print(f"speed not measured: a length of {length} does not fit into memory", flush=True)
            continue
        row = {"length": length, "rows": rows, "repeats": config.repeats}
        row |= {f"train_{name}": value for name, value in asdict(trained).items()}
        row |= {f"decode_{name}": value for name, value in asdict(decoded).items()}
        for name, value in row.items():
            columns.setdefault(name, []).append(value)
    return columns


def _training(model: LanguageModel, rows: int, length: int, repeats: int) -> Speed:
    inputs, targets = _random_tokens(model, rows, length), _random_tokens(model, rows, length)

    def one_pass() -> None:
        model(inputs, targets).backward()

    model.train()
    try:
        return _measured(one_pass, rows * length, repeats, inputs.device, model)
    finally:
        model.zero_grad(set_to_none=True)


@torch.no_grad()
def _decoding(model: LanguageModel, length: int, config: SpeedConfig) -> Speed:
    """One sequence, `config.decoded` tokens after a prompt of `length`; the prompt's own time is not counted."""
    prompt = _random_tokens(model, 1, length)
    following = _random_tokens(model, 1, config.decoded)
    model.eval()
    _, cache = decode(model, prompt)

    def go_on() -> None:
        # the cache goes on from repeat to repeat: the prompt grows by few tokens
        for place in range(config.decoded):
            decode(model, following[:, place : place + 1], cache)

    speed = _measured(go_on, config.decoded, config.repeats, prompt.device, model)
    return replace(speed, memory_bytes=speed.memory_bytes + cache_bytes(cache))


def _random_tokens(model: LanguageModel, rows: int, length: int) -> Tensor:
    tokens = torch.arange(rows * length).view(rows, length) % model.config.vocab_size
    return tokens.to(model.embedding.weight.device)


def _measured(
    work: Callable[[], None], tokens: int, repeats: int, device: torch.device, model: LanguageModel
) -> Speed:
    """`work` is done once to warm up, once for its memory, then timed."""
    work()
    model.zero_grad(set_to_none=True)
    gc.collect()
    memory = PeakMemory(device)
    work()
    used = memory.bytes()
    rates = []
    for _ in range(repeats):
        model.zero_grad(set_to_none=True)
        with _timed(device) as seconds:
            work()
        rates.append(tokens / seconds[0])
    mean = math.fsum(rates) / repeats
    deviation = math.sqrt(math.fsum((rate - mean) ** 2 for rate in rates) / (repeats - 1))
    return Speed(mean, deviation / math.sqrt(repeats), used)


@contextmanager
def _timed(device: torch.device) -> Iterator[list[float]]:
    seconds = [math.nan]
    _wait_for(device)
    began = time.perf_counter()
    yield seconds
    _wait_for(device)
    seconds[0] = time.perf_counter() - began


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
