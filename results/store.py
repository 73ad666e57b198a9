"""All trials of a campaign in one file, results.h5, for people with pandas, h5py or MATLAB.

    /trials      a row a trial: every attribute, the last validation and the test loss, the throughput
    /scores      a row a trial and benchmark: candidate, rung, seed, task, score, n, standard_error
    /speeds      a row a trial and length: candidate, rung, seed, and the columns of `record.SpeedTable`
    /candidates  a row a candidate: the columns that the caller gives
    /curves/<candidate>/<rung>/<seed>/{step,tokens,loss}    the training loss, <candidate> as in 0007

The first four are compound tables with int64, float64 and UTF-8 texts of fixed length, so that
`pandas.DataFrame(file["trials"][:])` or MATLAB's `h5read(file, "/trials")` has it all. An absent number is
NaN, an absent text is empty. The file is made from the trials' own files, which stay the truth.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from asiarch.results.files import atomic_path
from asiarch.results.record import LossCurve, SpeedTable, TrialRecord
from asiarch.results.schema import read_trial
from asiarch.results.trial import RESULT_NAME, BadResult, TrialKey

Cell = str | int | float | bool | None
Row = Mapping[str, Cell]

_SCORES: Row = {"candidate": 0, "rung": 0, "seed": 0, "task": "", "score": 0.0, "n": 0, "standard_error": 0.0}


_SPEEDS: Row = {"candidate": 0, "rung": 0, "seed": 0} | {
    column.name: 0 if column.name in ("length", "rows", "repeats") else 0.0 for column in fields(SpeedTable)
}


@dataclass(frozen=True)
class Aggregate:
    """How many trials went into results.h5, and which files did not, each with a reason in one line."""

    trials: int
    skipped: tuple[tuple[Path, str], ...]


def aggregate(run_dir: Path, candidates: Sequence[Row], out: Path | None = None) -> Aggregate:
    """Rebuild `out` (default RUN/results.h5) atomically from all results below `run_dir`.

    `candidates` are the rows of /candidates, with str, int, float, bool (stored as 0 or 1) or None in each
    column. A bad result is skipped and reported. Raises ValueError where a column mixes texts and numbers,
    OSError where the disk fails; whatever is raised, an existing file stays as it was.
    """
    table = _table(candidates)
    trials: list[Row] = []
    scores: list[Row] = []
    speeds: list[Row] = []
    skipped = []
    with atomic_path(out or run_dir / "results.h5") as temporary, h5py.File(temporary, "w") as file:
        for path in result_paths(run_dir):
            try:
                record = read_trial(path, expected=TrialKey.from_result_path(path))
            except BadResult as error:
                skipped.append((path, error.reason))
                continue
            trials.append(_trial_row(record))
            scores.extend(_score_rows(record))
            speeds.extend(_speed_rows(record))
            _write_curve(file, record)
        file.create_dataset("candidates", data=table)
        file.create_dataset("trials", data=_table(trials))
        # a table without rows keeps its columns
        file.create_dataset("scores", data=_table(scores) if scores else _table([_SCORES])[:0])
        file.create_dataset("speeds", data=_table(speeds) if speeds else _table([_SPEEDS])[:0])
        file.require_group("curves")
    return Aggregate(len(trials), tuple(skipped))


def result_paths(run_dir: Path) -> list[Path]:
    """The result files below RUN/candidates, sorted; whether they are good is not looked at."""
    return sorted(run_dir.glob(f"candidates/*/trials/rung*-seed*/{RESULT_NAME}"))


def _trial_row(record: TrialRecord) -> Row:
    attributes: dict[str, Cell] = {
        name: value
        for name, value in vars(record).items()
        if name not in ("key", "train", "validation", "test", "tasks", "speed")
    }
    throughput = record.train.tokens_per_s
    key: dict[str, Cell] = asdict(record.key)
    return {
        **key,
        **attributes,
        **_last("validation", record.validation),
        **_last("test", record.test),
        "tokens_per_s": float(np.median(throughput)) if len(throughput) else None,
    }


def _last(split: str, curve: LossCurve) -> dict[str, Cell]:
    return {
        f"{split}_{name}": float(getattr(curve, name)[-1]) if len(curve.loss) else None
        for name in ("loss", "standard_error", "bits_per_byte")
    }


def _score_rows(record: TrialRecord) -> Iterable[Row]:
    for task, result in record.tasks.items():
        yield {**asdict(record.key), "task": task, **asdict(result)}


def _speed_rows(record: TrialRecord) -> Iterable[Row]:
    for place in range(len(record.speed.length)):
        columns = {
            column.name: getattr(record.speed, column.name)[place].item() for column in fields(SpeedTable)
        }
        yield {**asdict(record.key), **columns}


def _write_curve(file: h5py.File, record: TrialRecord) -> None:
    key = record.key
    group = file.create_group(f"curves/{key.candidate:04d}/{key.rung}/{key.seed}")
    for name in ("step", "tokens", "loss"):
        group.create_dataset(name, data=getattr(record.train, name))


def _table(rows: Sequence[Row]) -> np.ndarray[Any, np.dtype[Any]]:
    """Rows as a compound array, columns in the order of first appearance; None becomes NaN or no text."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: _column(name, [row.get(name) for row in rows]) for name in names}
    # HDF5 has no compound type without members
    columns = columns or {"candidate": np.zeros(0, np.int64)}
    table = np.zeros(len(rows), np.dtype([(name, column.dtype) for name, column in columns.items()]))
    for name, column in columns.items():
        table[name] = column
    return table


def _column(name: str, cells: Sequence[Cell]) -> np.ndarray[Any, np.dtype[Any]]:
    texts = [isinstance(cell, str) for cell in cells if cell is not None]
    if any(texts):
        if not all(texts):
            raise ValueError(f"the column {name} mixes texts and numbers")
        encoded = [str(cell or "").encode() for cell in cells]
        width = max(1, *(len(text) for text in encoded))
        return np.array(encoded, dtype=h5py.string_dtype("utf-8", width))
    if all(isinstance(cell, (bool, int)) for cell in cells):
        return np.array(cells, np.int64)
    return np.array([np.nan if cell is None else cell for cell in cells], np.float64)
