"""Everything one trial measured, and the rules that a usable record keeps."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from asiarch.results.trial import BadResult, TaskResult, TrialKey, TrialSummary

# `finished` alone may be ranked; the others say why the trial stopped before its budget.
FINISHED = "finished"
OUTCOMES = (FINISHED, "diverged", "too_slow", "implausible", "stopped", "failed")

MAX_POINTS = 1 << 20  # points of a curve
MAX_TASKS = 64
MAX_TEXT = 512  # bytes of one text attribute
TASK_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TrainCurve:
    """The training log, one entry a logged step; all arrays have the shape (points,).

    step: optimiser steps done. tokens: training tokens seen so far. loss: nats a token. lr: learning rate.
    grad_norm: before clipping; may be infinite where a scaled step overflowed. tokens_per_s: throughput of all
    ranks. flops_utilisation: share of the devices' peak arithmetic speed. memory_bytes: the most that rank 0 held
    so far. data_wait: share of the time in which training waited for its batch. seconds: spent in training so far.
    """

    step: Integers
    tokens: Integers
    loss: Floats
    lr: Floats
    grad_norm: Floats
    tokens_per_s: Floats
    flops_utilisation: Floats
    memory_bytes: Integers
    data_wait: Floats
    seconds: Floats


@dataclass(frozen=True, eq=False)
class LossCurve:
    """Loss on held-out data after `tokens` training tokens; all arrays have the shape (points,).

    loss: nats a token. standard_error: of the loss, over `windows` windows of text. bits_per_byte: the loss in bits
    for each byte of the text, comparable between tokenizers.
    """

    tokens: Integers
    loss: Floats
    standard_error: Floats
    bits_per_byte: Floats
    windows: Integers


@dataclass(frozen=True, eq=False)
class SpeedTable:
    """Speed and memory, one entry a length; all arrays have the shape (lengths,).

    length: tokens in a sequence. rows: sequences in one forward and backward pass; decoding has one. repeats: of each
    measurement. train_tokens_per_s: forward and backward, of one rank, without optimiser and communication.
    decode_tokens_per_s: one token after the other behind a prompt of that length, through the mixers' own cache; NaN,
    as its error and memory are, for a program that has none. *_standard_error: of the mean over repeats.
    *_memory_bytes: the most that was held beyond the model's parameters, in decoding the cache included; NaN where the
    machine does not tell.
    """

    length: Integers
    rows: Integers
    repeats: Integers
    train_tokens_per_s: Floats
    train_standard_error: Floats
    train_memory_bytes: Floats
    decode_tokens_per_s: Floats
    decode_standard_error: Floats
    decode_memory_bytes: Floats

    @classmethod
    def empty(cls) -> "SpeedTable":
        """That of a trial whose speed was not measured."""
        counts: list[Integers] = [np.zeros(0, np.int64)] * 3
        measured: list[Floats] = [np.zeros(0)] * 6
        return cls(counts[0], counts[1], counts[2], *measured)


@dataclass(frozen=True, eq=False)
class TrialRecord:
    """One trial's result.

    `validation` is a curve whose last loss is the trial's score; `test` holds one point, measured at the
    end, which is reported and never used for selection. Times are in seconds; `started` is ISO 8601 in UTC;
    `slurm_job_id` is empty outside Slurm; `tokens` counts training tokens. A trial that did not finish may
    have empty curves; a loss that is not finite does not belong in `validation` or `test` (leave the point
    out).
    """

    key: TrialKey
    stage: str
    parameters: int
    tokens: int
    config_hash: str
    code_version: str
    torch: str
    device: str
    slurm_job_id: str
    started: str
    elapsed_s: float
    startup_s: float
    training_s: float
    evaluation_s: float
    gpu_hours: float
    outcome: str
    train: TrainCurve
    validation: LossCurve
    test: LossCurve
    tasks: Mapping[str, TaskResult] = field(default_factory=dict)
    speed: SpeedTable = field(default_factory=SpeedTable.empty)

    def summary(self) -> TrialSummary:
        """What the search and the ranking need; the throughput is the median over the logged steps.

        Raises BadResult where the trial did not finish: it has no score.
        """
        if self.outcome != FINISHED:
            raise BadResult(f"outcome is {self.outcome}: only a finished trial has a score")
        return TrialSummary(
            key=self.key,
            validation_loss=float(self.validation.loss[-1]),
            test_loss=float(self.test.loss[-1]),
            tokens_per_s=float(np.median(self.train.tokens_per_s)),
            parameters=self.parameters,
            validation_error=float(self.validation.standard_error[-1]),
            validation_windows=int(self.validation.windows[-1]),
            test_error=float(self.test.standard_error[-1]),
            test_windows=int(self.test.windows[-1]),
            tasks=dict(self.tasks),
        )


def validate(record: TrialRecord) -> None:
    """Raise BadResult, naming the part, unless the record may be stored and used."""
    _validate_attributes(record)
    finished = record.outcome == FINISHED
    _validate_curve("train", record.train, points=(1 if finished else 0, MAX_POINTS))
    _validate_curve("validation", record.validation, points=(1 if finished else 0, MAX_POINTS))
    _validate_curve("test", record.test, points=(1 if finished else 0, 1))
    _increasing("train/step", record.train.step)
    _finite("train/lr", record.train.lr)
    for name in ("tokens_per_s", "flops_utilisation", "data_wait", "seconds"):
        _finite(f"train/{name}", getattr(record.train, name), minimum=0.0)
    if finished:  # the log of a run that diverged shows how it did
        _finite("train/loss", record.train.loss)
    # a cross entropy is never negative
    for split in ("validation", "test"):
        curve = getattr(record, split)
        for name in ("loss", "standard_error", "bits_per_byte"):
            _finite(f"{split}/{name}", getattr(curve, name), minimum=0.0)
        if np.any(curve.windows < 1):
            raise BadResult(f"{split}/windows has an entry below 1")
    _validate_tasks(record.tasks)
    _validate_speed(record.speed)


def _validate_attributes(record: TrialRecord) -> None:
    counts = {
        "candidate": record.key.candidate,
        "rung": record.key.rung,
        "seed": record.key.seed,
        "parameters": record.parameters,
        "tokens": record.tokens,
    }
    for name, count in counts.items():
        if not 0 <= count < 2**63:
            raise BadResult(f"{name} is {count}, need an integer from 0 to 2^63 - 1")
    for name in ("elapsed_s", "startup_s", "training_s", "evaluation_s", "gpu_hours"):
        number = getattr(record, name)
        if not (math.isfinite(number) and number >= 0):
            raise BadResult(f"{name} is {number}, need a finite number >= 0")
    for name in ("stage", "config_hash", "code_version", "torch", "device", "slurm_job_id", "started"):
        text = getattr(record, name)
        # these texts reach terminals, where an escape sequence would act
        if not text.isprintable() or len(text.encode()) > MAX_TEXT:
            raise BadResult(f"{name} is not a printable text of at most {MAX_TEXT} bytes")
    if record.outcome not in OUTCOMES:
        raise BadResult(f"outcome is {record.outcome[:40]!r}, not one of {', '.join(OUTCOMES)}")
    if not _is_utc(record.started):
        raise BadResult(f"started is {record.started[:40]!r}, not a time in ISO 8601 and UTC")


def _is_utc(text: str) -> bool:
    try:
        # Python 3.10 does not read the suffix Z
        return datetime.fromisoformat(text.replace("Z", "+00:00")).utcoffset() == timedelta(0)
    except ValueError:
        return False


def _validate_curve(name: str, curve: TrainCurve | LossCurve, points: tuple[int, int]) -> None:
    _validate_shapes(name, curve, curve.tokens)
    low, high = points
    if not low <= len(curve.tokens) <= high:
        raise BadResult(f"{name} has {len(curve.tokens)} points, need {low} to {high}")
    _increasing(f"{name}/tokens", curve.tokens)


def _validate_shapes(name: str, table: TrainCurve | LossCurve | SpeedTable, first: Integers) -> None:
    for column in fields(table):
        values = getattr(table, column.name)
        if values.shape != first.shape or values.ndim != 1:
            raise BadResult(f"{name}/{column.name} has shape {values.shape}, need {first.shape}")


def _increasing(name: str, values: Integers) -> None:
    if np.any(values < 0) or np.any(values[1:] <= values[:-1]):
        raise BadResult(f"{name} does not increase from 0 upward")


def _finite(name: str, values: Floats, minimum: float = -math.inf) -> None:
    bad = ~np.isfinite(values) | (values < minimum)
    if bad.any():
        where = int(np.argmax(bad))
        need = "a finite number" if minimum == -math.inf else f"a finite number >= {minimum:g}"
        raise BadResult(f"{name}[{where}] is {values[where]}, need {need}")


def _validate_tasks(tasks: Mapping[str, TaskResult]) -> None:
    if len(tasks) > MAX_TASKS:
        raise BadResult(f"eval has {len(tasks)} tasks, at most {MAX_TASKS} are read")
    for name, task in tasks.items():
        if not TASK_NAME.fullmatch(name):
            raise BadResult(f"eval has a task named {name[:40]!r}, need letters, digits and _.- alone")
        if not math.isfinite(task.score):
            raise BadResult(f"eval/{name}/score is {task.score}, need a finite number")
        if not (math.isfinite(task.standard_error) and task.standard_error >= 0):
            raise BadResult(f"eval/{name}/standard_error is {task.standard_error}, need a finite number >= 0")
        if not 1 <= task.n < 2**63:
            raise BadResult(f"eval/{name}/n is {task.n}, need an integer >= 1")


def _validate_speed(speed: SpeedTable) -> None:
    _validate_shapes("speed", speed, speed.length)
    _increasing("speed/length", speed.length)
    for name in ("length", "rows", "repeats"):
        if np.any(getattr(speed, name) < 1):
            raise BadResult(f"speed/{name} has an entry below 1")
    _finite("speed/train_tokens_per_s", speed.train_tokens_per_s, minimum=0.0)
    _finite("speed/train_standard_error", speed.train_standard_error, minimum=0.0)
    for name in ("train_memory_bytes", "decode_tokens_per_s", "decode_standard_error", "decode_memory_bytes"):
        values = getattr(speed, name)
        _finite(f"speed/{name}", np.where(np.isnan(values), 0.0, values), minimum=0.0)
    if np.any(np.isnan(speed.decode_tokens_per_s) != np.isnan(speed.decode_standard_error)):
        raise BadResult("speed/decode_standard_error has not the gaps of decode_tokens_per_s")
