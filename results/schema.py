"""One trial's result as an HDF5 file.

Root attributes: schema_version, digest, candidate, seed, rung, stage, parameters, tokens, config_hash,
code_version, torch, device, slurm_job_id, started, elapsed_s, startup_s, training_s, evaluation_s,
gpu_hours, outcome. Datasets:
/train/{step,tokens,loss,lr,grad_norm,tokens_per_s,flops_utilisation,memory_bytes,data_wait,seconds},
/validation/{tokens,loss,standard_error,bits_per_byte,windows}, /test the same (one point),
/speed/{length,rows,repeats} and {train,decode}_{tokens_per_s,standard_error,memory_bytes} in it, and the scalars
/eval/<task>/{score,n,standard_error}. Integers are int64, numbers float64, texts UTF-8 of fixed length;
datasets are contiguous and unfiltered. `record` says what they mean.

The process that writes a result has run code that a language model wrote, so the file is read as hostile:
it is copied into memory first, opened through HDF5's low-level calls with every type, size and link checked
before any data is touched, and nothing but plain numbers and texts of bounded size is read from it. The
digest (SHA-256 of all values) shows damage, not malice. HDF5's own parser still sees hostile bytes; what it
would do with a file made to exploit a fault of its own, nothing here can prevent.
"""

import hashlib
import math
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5d, h5f, h5g, h5l, h5s, h5t

from asiarch.results.files import atomic_path
from asiarch.results.record import (
    MAX_POINTS,
    MAX_TASKS,
    MAX_TEXT,
    OUTCOMES,
    TASK_NAME,
    LossCurve,
    SpeedTable,
    TaskResult,
    TrainCurve,
    TrialRecord,
    validate,
)
from asiarch.results.trial import BadResult, TrialKey

__all__ = ["OUTCOMES", "SCHEMA_VERSION", "BadResult", "TrialKey", "TrialRecord", "read_trial", "write_trial"]

SCHEMA_VERSION = 4
MAX_BYTES = 64 << 20
# up to the number of the superblock: 3 is the format of HDF5 1.10, with a checksum in all metadata
SIGNATURE = b"\x89HDF\r\n\x1a\n\x03"

_ATTRIBUTES: dict[str, type] = {
    "candidate": int,
    "seed": int,
    "rung": int,
    "stage": str,
    "parameters": int,
    "tokens": int,
    "config_hash": str,
    "code_version": str,
    "torch": str,
    "device": str,
    "slurm_job_id": str,
    "started": str,
    "elapsed_s": float,
    "startup_s": float,
    "training_s": float,
    "evaluation_s": float,
    "gpu_hours": float,
    "outcome": str,
}
_TABLES: dict[str, type[TrainCurve] | type[LossCurve] | type[SpeedTable]] = {
    "train": TrainCurve,
    "validation": LossCurve,
    "test": LossCurve,
    "speed": SpeedTable,
}
_INTEGER_DATA = {"step", "tokens", "n", "memory_bytes", "windows", "length", "rows", "repeats"}

Value = int | float | str
Array = np.ndarray[Any, np.dtype[Any]]


def write_trial(path: Path, record: TrialRecord) -> None:
    """Write `record` to `path`: to a temporary name beside it, fsynced, then renamed.

    Raises BadResult where `read_trial` would refuse the record, OSError where the disk does.
    """
    validate(record)
    attributes, data = _attributes(record), _datasets(record)
    with atomic_path(path) as temporary, h5py.File(temporary, "w", libver=("v110", "v110")) as file:
        file.attrs["schema_version"] = np.int64(SCHEMA_VERSION)
        for name, value in {**attributes, "digest": _digest(attributes, data)}.items():
            _write_attribute(file, name, value)
        for name in (*_TABLES, "eval"):
            file.create_group(name)
        for name, values in data.items():
            file.create_dataset(name, data=values)


def read_trial(path: Path, expected: TrialKey | None = None) -> TrialRecord:
    """Read what `write_trial` wrote. Raises BadResult, and nothing else, for any file that is not that.

    Where `expected` is given, a record of another trial is refused too.
    """
    image = _image(path)
    try:
        with _opened(image) as file:
            _check_version(file)
            attributes = {name: _read_attribute(file, name, kind) for name, kind in _ATTRIBUTES.items()}
            data = _read_datasets(file)
            digest = _read_attribute(file, "digest", str)
    except BadResult:
        raise
    except Exception as error:  # a hostile file can make the library raise anything
        raise BadResult(f"damaged HDF5 file: {_one_line(error)}") from None
    if digest != _digest(attributes, data):
        raise BadResult("the digest does not fit the content: the file was damaged or changed")
    record = _record(attributes, data)
    validate(record)
    if expected is not None and record.key != expected:
        raise BadResult(f"holds {record.key}, expected {expected}")
    return record


def _attributes(record: TrialRecord) -> dict[str, Value]:
    key = {"candidate": record.key.candidate, "seed": record.key.seed, "rung": record.key.rung}
    values = {name: key[name] if name in key else getattr(record, name) for name in _ATTRIBUTES}
    return {name: kind(values[name]) for name, kind in _ATTRIBUTES.items()}


def _datasets(record: TrialRecord) -> dict[str, Array]:
    values = {
        f"{group}/{column.name}": getattr(getattr(record, group), column.name)
        for group, table in _TABLES.items()
        for column in fields(table)
    }
    for task, result in record.tasks.items():
        for column in fields(TaskResult):
            values[f"eval/{task}/{column.name}"] = getattr(result, column.name)
    return {name: np.asarray(value, _dtype(name)) for name, value in values.items()}


def _dtype(dataset: str) -> str:
    return "<i8" if dataset.rsplit("/", 1)[-1] in _INTEGER_DATA else "<f8"


def _digest(attributes: Mapping[str, Value], data: Mapping[str, Array]) -> str:
    digest = hashlib.sha256()
    for name in sorted(attributes):
        digest.update(f"{name}={attributes[name]!r}\n".encode())
    for name in sorted(data):
        digest.update(f"{name}{data[name].shape}\n".encode())
        digest.update(data[name].tobytes())
    return digest.hexdigest()


def _write_attribute(file: h5py.File, name: str, value: Value) -> None:
    if isinstance(value, str):
        # fixed length: texts of variable length live in a heap, one more structure to attack
        text = value.encode()
        file.attrs.create(name, text, dtype=h5py.string_dtype("utf-8", max(1, len(text))))
    else:
        file.attrs[name] = np.int64(value) if isinstance(value, int) else np.float64(value)


def _image(path: Path) -> bytes:
    """The bytes of `path`: a regular file of sane size, not a link or a pipe that would block for ever."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise BadResult(f"cannot be opened: {error.strerror}") from None
    try:
        # a folder opens too, and Python refuses to make a file of it
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise BadResult("is not a regular file")
        with os.fdopen(handle, "rb", closefd=False) as file:
            image = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise BadResult(f"cannot be read: {error.strerror}") from None
    finally:
        os.close(handle)
    if len(image) > MAX_BYTES:
        raise BadResult(f"is larger than {MAX_BYTES >> 20} MiB")
    if not image.startswith(SIGNATURE):
        raise BadResult("is empty" if not image else "is not an HDF5 file of version 1.10 or later")
    return image


def _opened(image: bytes) -> h5py.File:
    return h5py.File(h5f.open_file_image(image))


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return "".join(c if c.isprintable() else "?" for c in text)[:200]


def _check_version(file: h5py.File) -> None:
    version = _read_attribute(file, "schema_version", int)
    if version != SCHEMA_VERSION:
        raise BadResult(f"has schema version {version}, this program reads {SCHEMA_VERSION}")


def _read_attribute(file: h5py.File, name: str, kind: type) -> Any:
    if not h5a.exists(file.id, name.encode()):
        raise BadResult(f"attribute {name} is missing")
    attribute = h5a.open(file.id, name.encode())
    stored = attribute.get_type()
    if attribute.get_space().get_simple_extent_type() != h5s.SCALAR:
        raise BadResult(f"attribute {name} is not a scalar")
    if kind is str:
        plain = isinstance(stored, h5t.TypeStringID) and not stored.is_variable_str()
        if not plain or stored.get_size() > MAX_TEXT:
            raise BadResult(f"attribute {name} is not a text of fixed length, at most {MAX_TEXT} bytes")
        text = np.zeros((), f"S{stored.get_size()}")
        attribute.read(text, mtype=stored)
        try:
            return text.item().decode()
        except UnicodeDecodeError:
            raise BadResult(f"attribute {name} is not UTF-8") from None
    if not stored.equal(h5t.STD_I64LE if kind is int else h5t.IEEE_F64LE):
        raise BadResult(f"attribute {name} is not {'an int64' if kind is int else 'a float64'}")
    number = np.zeros((), "<i8" if kind is int else "<f8")
    attribute.read(number)
    return number.item()


def _read_datasets(file: h5py.File) -> dict[str, Array]:
    data = {}
    for group_name, table in _TABLES.items():
        group = _child(file.id, group_name, group_name, h5g.open)
        for column in fields(table):
            name = f"{group_name}/{column.name}"
            data[name] = _read_dataset(group, column.name, name, dimensions=1)
    tasks = _child(file.id, "eval", "eval", h5g.open)
    if tasks.get_num_objs() > MAX_TASKS:
        raise BadResult(f"eval has more than {MAX_TASKS} tasks")
    for index in range(tasks.get_num_objs()):
        task = tasks.get_objname_by_idx(index).decode(errors="replace")
        if not TASK_NAME.fullmatch(task):
            raise BadResult(f"eval has a task named {task[:40]!r}, need letters, digits and _.- alone")
        group = _child(tasks, task, f"eval/{task}", h5g.open)
        for column in fields(TaskResult):
            name = f"eval/{task}/{column.name}"
            data[name] = _read_dataset(group, column.name, name, dimensions=0)
    return data


def _child(parent: Any, name: str, full_name: str, opener: Callable[..., Any]) -> Any:
    """Open `name` in `parent` by a hard link; soft and external links can lead out of the file."""
    if not parent.links.exists(name.encode()):
        raise BadResult(f"{full_name} is missing")
    if parent.links.get_info(name.encode()).type != h5l.TYPE_HARD:
        raise BadResult(f"{full_name} is a soft or external link")
    try:
        return opener(parent, name.encode())
    except Exception as error:
        raise BadResult(f"{full_name} is damaged or of the wrong kind: {_one_line(error)}") from None


def _read_dataset(group: Any, name: str, full_name: str, dimensions: int) -> Array:
    dataset = _child(group, name, full_name, h5d.open)
    layout = dataset.get_create_plist()
    # asking for the shape of a virtual dataset opens other files, so this comes first
    if layout.get_layout() not in (h5d.CONTIGUOUS, h5d.COMPACT) or layout.get_external_count():
        raise BadResult(f"{full_name} is virtual, external or chunked, not plain contiguous data")
    dtype = _dtype(full_name)
    if not dataset.get_type().equal(h5t.STD_I64LE if dtype == "<i8" else h5t.IEEE_F64LE):
        raise BadResult(f"{full_name} is not {'int64' if dtype == '<i8' else 'float64'}")
    shape = dataset.get_space().shape  # None where nothing can be stored
    if shape is None or len(shape) != dimensions:
        raise BadResult(f"{full_name} has shape {shape}, need {dimensions} dimensions")
    values = math.prod(shape)
    if values > MAX_POINTS:
        raise BadResult(f"{full_name} has {values} values, at most {MAX_POINTS} are read")
    # data that was never written would read as zeros: a loss of 0, the best there is
    if dataset.get_storage_size() != 8 * values:
        raise BadResult(f"{full_name} was never written")
    array = np.empty(shape, dtype)
    if values:
        dataset.read(h5s.ALL, h5s.ALL, array)
    return array


def _record(attributes: dict[str, Any], data: dict[str, Array]) -> TrialRecord:
    tables: dict[str, Any] = {
        group: table(**{column.name: data[f"{group}/{column.name}"] for column in fields(table)})
        for group, table in _TABLES.items()
    }
    names = sorted({name.split("/")[1] for name in data if name.startswith("eval/")})
    tasks = {
        name: TaskResult(*(data[f"eval/{name}/{column.name}"].item() for column in fields(TaskResult)))
        for name in names
    }
    rest = {name: value for name, value in attributes.items() if name not in ("candidate", "seed", "rung")}
    key = TrialKey(attributes["candidate"], attributes["rung"], attributes["seed"])
    return TrialRecord(key=key, tasks=tasks, **tables, **rest)
