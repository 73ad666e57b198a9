"""What a trial is called, and the few numbers of its result that the search and the ranking live on.

Light: importing this needs neither numpy nor h5py, so `status` and the journal can use it freely.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

RESULT_NAME = "result.h5"
_FOLDER = re.compile(r"rung(0|[1-9]\d{0,8})-seed(0|[1-9]\d{0,8})")
_CANDIDATE = re.compile(r"\d{4}|[1-9]\d{4,8}")


class BadResult(Exception):
    """A result that must not be used. `reason` is one line that names the part that is wrong."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, order=True)
class TrialKey:
    """One trial: a candidate at a rung (training budget) with a seed. All are counted from 0."""

    candidate: int
    rung: int
    seed: int

    def result_path(self, run_dir: Path) -> Path:
        """Where the result of this trial lies: RUN/candidates/0007/trials/rung0-seed1/result.h5."""
        folder = f"rung{self.rung}-seed{self.seed}"
        return run_dir / "candidates" / f"{self.candidate:04d}" / "trials" / folder / RESULT_NAME

    @classmethod
    def from_result_path(cls, path: Path) -> "TrialKey":
        """The trial that the folders of `path` name. Raises BadResult where they name none."""
        candidate = _CANDIDATE.fullmatch(path.parent.parent.parent.name)
        folder = _FOLDER.fullmatch(path.parent.name)
        if candidate is None or folder is None:
            raise BadResult("lies outside a folder candidates/<id>/trials/rung<r>-seed<s>")
        return cls(int(candidate[0]), int(folder[1]), int(folder[2]))


@dataclass(frozen=True)
class TaskResult:
    """A benchmark's score (higher is better), its number of examples and its standard error."""

    score: float
    n: int
    standard_error: float


@dataclass(frozen=True)
class TrialSummary:
    """The numbers of one finished trial. Raises ValueError where a loss, a score or an error is not finite.

    `validation_loss` (nats a token) selects, `test_loss` (nats a token) is reported and never selects. Their standard
    errors, `validation_error` and `test_error`, are over as many windows of text. `tasks` maps a benchmark's name to
    its result. `tokens_per_s` is the training throughput, `parameters` the size of the whole language model.
    """

    key: TrialKey
    validation_loss: float
    test_loss: float
    tokens_per_s: float
    parameters: int
    validation_error: float
    validation_windows: int
    test_error: float
    test_windows: int
    tasks: Mapping[str, TaskResult] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in (
            ("validation loss", self.validation_loss),
            ("test loss", self.test_loss),
            ("tokens per second", self.tokens_per_s),
            ("standard error of the validation loss", self.validation_error),
            ("standard error of the test loss", self.test_error),
            *((f"standard error of {task}", result.standard_error) for task, result in self.tasks.items()),
        ):
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{self.key}: the {name} is {value}, need a finite number >= 0")
        for task, result in self.tasks.items():
            if not math.isfinite(result.score):
                raise ValueError(f"{self.key}: the score of {task} is {result.score}, need a finite number")

    def to_json(self) -> dict[str, object]:
        """A dict for `json.dumps`, through which floats survive bit for bit."""
        return {
            "candidate": self.key.candidate,
            "rung": self.key.rung,
            "seed": self.key.seed,
            "validation_loss": self.validation_loss,
            "test_loss": self.test_loss,
            "tokens_per_s": self.tokens_per_s,
            "parameters": self.parameters,
            "validation_error": self.validation_error,
            "validation_windows": self.validation_windows,
            "test_error": self.test_error,
            "test_windows": self.test_windows,
            "tasks": {name: asdict(result) for name, result in self.tasks.items()},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> "TrialSummary":
        """The inverse of `to_json`. Raises ValueError on a missing part or one of the wrong type."""
        tasks = data.get("tasks")
        if not isinstance(tasks, Mapping):
            raise ValueError("a trial's summary needs `tasks`, a table of results")
        return cls(
            key=TrialKey(_integer(data, "candidate"), _integer(data, "rung"), _integer(data, "seed")),
            validation_loss=_number(data, "validation_loss"),
            test_loss=_number(data, "test_loss"),
            tokens_per_s=_number(data, "tokens_per_s"),
            parameters=_integer(data, "parameters"),
            validation_error=_number(data, "validation_error"),
            validation_windows=_integer(data, "validation_windows"),
            test_error=_number(data, "test_error"),
            test_windows=_integer(data, "test_windows"),
            tasks={str(name): _task_result(result) for name, result in tasks.items()},
        )


def _task_result(data: object) -> TaskResult:
    if not isinstance(data, Mapping):
        raise ValueError(f"a task's result needs score, n and standard_error, not {data!r}")
    return TaskResult(_number(data, "score"), _integer(data, "n"), _number(data, "standard_error"))


def _integer(data: Mapping[str, object], name: str) -> int:
    value = data.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"a trial's summary needs the integer `{name}`, not {value!r}")
    return value


def _number(data: Mapping[str, object], name: str) -> float:
    value = data.get(name)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise ValueError(f"a trial's summary needs the number `{name}`, not {value!r}")
    return float(value)
