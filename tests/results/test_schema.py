"""Trial files: what is written comes back bit for bit; whatever else lies there is refused in one line."""

import json
import math
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from records import loss_curve, speed_table

from asiarch.results.record import TrialRecord
from asiarch.results.schema import BadResult, TrialKey, read_trial, write_trial
from asiarch.results.trial import TaskResult, TrialSummary

MakeRecord = Callable[..., TrialRecord]


def assert_same(a: TrialRecord, b: TrialRecord) -> None:
    for column in fields(TrialRecord):
        left, right = getattr(a, column.name), getattr(b, column.name)
        if column.name in ("train", "validation", "test", "speed"):
            for part in fields(left):
                np.testing.assert_array_equal(getattr(left, part.name), getattr(right, part.name))
                assert getattr(left, part.name).dtype == getattr(right, part.name).dtype
        else:
            assert left == right, column.name


@pytest.fixture
def stored(tmp_path: Path, make_record: MakeRecord) -> Path:
    path = tmp_path / "result.h5"
    write_trial(path, make_record())
    return path


def test_round_trip(stored: Path, make_record: MakeRecord) -> None:
    assert_same(read_trial(stored), make_record())
    assert [path.name for path in stored.parent.iterdir()] == ["result.h5"]


def test_plain_h5py_reads_the_documented_layout(stored: Path, make_record: MakeRecord) -> None:
    record = make_record()
    with h5py.File(stored, "r") as file:
        assert file.attrs["schema_version"] == 4
        assert (file.attrs["candidate"], file.attrs["rung"], file.attrs["seed"]) == (7, 0, 1)
        assert file.attrs["device"].decode() == record.device
        assert set(file["train"]) == {
            *("step", "tokens", "loss", "lr", "grad_norm", "tokens_per_s"),
            *("flops_utilisation", "memory_bytes", "data_wait", "seconds"),
        }
        assert file["train/loss"][:].tolist() == record.train.loss.tolist()
        assert file["test/loss"][:].tolist() == [4.25]
        assert file["eval/mqar/score"][()] == 0.5
        assert file["speed/length"][:].tolist() == [256, 1024]
        assert file["speed/train_tokens_per_s"][:].tolist() == [1000.0, 900.0]
        assert np.isnan(file["speed/decode_tokens_per_s"][:]).all()
        assert file["eval/state_tracking/n"][()] == 40


@given(
    loss=st.lists(st.floats(0, 1e300), min_size=1, max_size=5),
    score=st.floats(-1e300, 1e300),
    stage=st.text(st.characters(categories=["L", "N", "P", "S"]), max_size=50),
)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_valid_value_survives(
    tmp_path: Path, make_record: MakeRecord, loss: list[float], score: float, stage: str
) -> None:
    validation = loss_curve(range(len(loss)), loss)
    record = make_record(stage=stage, validation=validation, tasks={"mqar": TaskResult(score, 3, 0.0)})
    write_trial(tmp_path / "result.h5", record)
    got = read_trial(tmp_path / "result.h5")
    assert_same(got, record)
    summary = got.summary()
    assert TrialSummary.from_json(json.loads(json.dumps(summary.to_json()))) == summary
    assert summary.validation_loss == loss[-1]


def test_summary_takes_the_last_validation_loss_and_the_median_throughput(make_record: MakeRecord) -> None:
    assert make_record().summary() == TrialSummary(
        key=TrialKey(7, 0, 1),
        validation_loss=1 / 3,
        test_loss=4.25,
        tokens_per_s=4.0,
        parameters=123_456,
        validation_error=1 / 3 / 100,
        validation_windows=16,
        test_error=0.0425,
        test_windows=16,
        tasks={"mqar": TaskResult(0.5, 100, 0.05), "state_tracking": TaskResult(0.25, 40, 0.0)},
    )


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0])
@pytest.mark.parametrize("curve", ["validation", "test"])
def test_a_loss_that_is_no_loss_is_refused(
    tmp_path: Path, make_record: MakeRecord, curve: str, value: float
) -> None:
    record = make_record(**{curve: loss_curve([5000], [value])})
    with pytest.raises(BadResult, match=rf"^{curve}/loss\[0\] is .*, need a finite number >= 0$"):
        write_trial(tmp_path / "result.h5", record)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dataset", ["validation/loss", "test/loss", "eval/mqar/score", "train/loss"])
def test_nan_put_into_the_file_is_refused(stored: Path, dataset: str) -> None:
    with h5py.File(stored, "r+") as file:
        file[dataset][...] = np.nan
    with pytest.raises(BadResult):
        read_trial(stored)


CHANGES = {
    "negative candidate": ({"key": TrialKey(-1, 0, 0)}, "candidate is -1"),
    "unknown outcome": ({"outcome": "great"}, "outcome is 'great', not one of finished"),
    "escape sequence": ({"device": "\x1b[2J"}, "device is not a printable text"),
    "long text": ({"stage": "x" * 513}, "stage is not a printable text"),
    "local time": ({"started": "2026-11-24T00:00:00+01:00"}, "not a time in ISO 8601 and UTC"),
    "no validation": ({"validation": loss_curve([], [])}, "validation has 0 points"),
    "two test points": ({"test": loss_curve([1, 2], [4.0, 4.0])}, "test has 2 points"),
    "tokens go back": (
        {"validation": loss_curve([2, 1], [4.0, 4.0])},
        "does not increase",
    ),
    "uneven": ({"validation": loss_curve([1, 2], [4.0])}, "validation/loss has shape"),
    "negative error": (
        {"test": replace(loss_curve([1], [4.0]), standard_error=np.array([-1.0]))},
        "test/standard_error[0] is -1.0",
    ),
    "no windows": (
        {"validation": replace(loss_curve([1], [4.0]), windows=np.array([0]))},
        "validation/windows has an entry below 1",
    ),
    "speeds out of order": ({"speed": speed_table(length=[1024, 256])}, "speed/length does not increase"),
    "no repeats": ({"speed": speed_table(repeats=[3, 0])}, "speed/repeats has an entry below 1"),
    "no throughput": (
        {"speed": speed_table(train_tokens_per_s=[1.0, math.nan])},
        "speed/train_tokens_per_s[1] is nan",
    ),
    "endless decoding": (
        {"speed": speed_table(decode_tokens_per_s=[math.inf, 1.0])},
        "speed/decode_tokens_per_s[0] is inf",
    ),
    "a speed without its error": (
        {"speed": speed_table(decode_tokens_per_s=[5.0, 5.0], decode_standard_error=[0.1, math.nan])},
        "speed/decode_standard_error has not the gaps of decode_tokens_per_s",
    ),
    "uneven speeds": ({"speed": speed_table(rows=[1])}, "speed/rows has shape (1,), need (2,)"),
    "nan score": ({"tasks": {"mqar": TaskResult(math.nan, 1, 0.0)}}, "eval/mqar/score is nan"),
    "no examples": ({"tasks": {"mqar": TaskResult(0.5, 0, 0.0)}}, "eval/mqar/n is 0"),
    "task with a slash": ({"tasks": {"../x": TaskResult(0.5, 1, 0.0)}}, "task named '../x'"),
    "gpu hours": ({"gpu_hours": math.inf}, "gpu_hours is inf"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_an_invalid_record_is_not_written(tmp_path: Path, make_record: MakeRecord, case: str) -> None:
    changes, reason = CHANGES[case]
    with pytest.raises(BadResult) as caught:
        write_trial(tmp_path / "result.h5", make_record(**changes))
    assert reason in caught.value.reason


def test_a_diverged_trial_is_kept_and_has_no_score(tmp_path: Path, make_record: MakeRecord) -> None:
    empty = loss_curve([], [])
    train = replace(make_record().train, loss=np.array([3, 4, 9, np.nan, np.inf]))
    record = make_record(outcome="diverged", train=train, validation=empty, test=empty, tasks={})
    write_trial(tmp_path / "result.h5", record)
    got = read_trial(tmp_path / "result.h5")
    assert_same(got, record)
    with pytest.raises(BadResult, match="only a finished trial has a score"):
        got.summary()


def test_another_trials_record_is_refused(stored: Path) -> None:
    assert read_trial(stored, TrialKey(7, 0, 1)).key == TrialKey(7, 0, 1)
    with pytest.raises(BadResult, match="expected"):
        read_trial(stored, TrialKey(8, 0, 1))


def test_what_is_not_a_file_is_refused(tmp_path: Path, stored: Path) -> None:
    (tmp_path / "link.h5").symlink_to(stored)
    os.mkfifo(tmp_path / "pipe.h5")  # opening it the plain way would wait for a writer for ever
    (tmp_path / "folder.h5").mkdir()
    (tmp_path / "empty.h5").touch()
    (tmp_path / "text.h5").write_text("loss: 0.0")
    with (tmp_path / "huge.h5").open("wb") as file:
        file.truncate(65 << 20)
    for name in ("none", "link", "pipe", "folder", "empty", "text", "huge"):
        with pytest.raises(BadResult) as caught:
            read_trial(tmp_path / f"{name}.h5")
        assert "\n" not in caught.value.reason


def _external_link(file: h5py.File, other: Path) -> None:
    file["validation/loss"] = h5py.ExternalLink(str(other), "/validation/loss")


def _soft_link(file: h5py.File, other: Path) -> None:
    file["validation/loss"] = h5py.SoftLink("/test/loss")


def _virtual(file: h5py.File, other: Path) -> None:
    layout = h5py.VirtualLayout((2,), "<f8")
    layout[:] = h5py.VirtualSource(str(other), "/validation/loss", shape=(2,))
    file.create_virtual_dataset("validation/loss", layout)


def _external_data(file: h5py.File, other: Path) -> None:
    file.create_dataset("validation/loss", (2,), "<f8", external=[(str(other), 0, 16)])


def _never_written(file: h5py.File, other: Path) -> None:
    file.create_dataset("validation/loss", (2,), "<f8")


def _bomb(file: h5py.File, other: Path) -> None:
    file.create_dataset("validation/loss", (1 << 40,), "<f8", chunks=(1 << 16,), compression="gzip")


def _texts(file: h5py.File, other: Path) -> None:
    file["validation/loss"] = ["4.0", "3.0"]


def _objects(file: h5py.File, other: Path) -> None:
    file.create_dataset("validation/loss", data=[file.ref, file.ref], dtype=h5py.ref_dtype)


def _single_precision(file: h5py.File, other: Path) -> None:
    file["validation/loss"] = np.array([4.0, 3.0], "<f4")


def _matrix(file: h5py.File, other: Path) -> None:
    file["validation/loss"] = np.ones((2, 1))


def _group(file: h5py.File, other: Path) -> None:
    file.create_group("validation/loss")


def _nothing(file: h5py.File, other: Path) -> None:
    pass


HOSTILE = [
    (_external_link, "soft or external link"),
    (_soft_link, "soft or external link"),
    (_virtual, "virtual, external or chunked"),
    (_external_data, "virtual, external or chunked"),
    (_never_written, "never written"),
    (_bomb, "virtual, external or chunked"),
    (_texts, "is not float64"),
    (_objects, "is not float64"),
    (_single_precision, "is not float64"),
    (_matrix, "need 1 dimensions"),
    (_group, "of the wrong kind"),
    (_nothing, "is missing"),
]


@pytest.mark.parametrize(("attack", "reason"), HOSTILE, ids=[attack.__name__[1:] for attack, _ in HOSTILE])
def test_a_hostile_dataset_is_refused(
    stored: Path, attack: Callable[[h5py.File, Path], None], reason: str
) -> None:
    pipe = stored.parent / "pipe"  # following a path out of the file would hang here
    os.mkfifo(pipe)
    with h5py.File(stored, "r+", libver=("v110", "v110")) as file:
        del file["validation/loss"]
        attack(file, pipe)
    with pytest.raises(BadResult) as caught:
        read_trial(stored)
    assert caught.value.reason.startswith("validation/loss")
    assert reason in caught.value.reason


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("schema_version", np.int64(1), "schema version 1, this program reads 4"),
        ("candidate", "7", "attribute candidate is not an int64"),
        ("candidate", np.int64([7, 8]), "attribute candidate is not a scalar"),
        ("elapsed_s", np.int64(3), "attribute elapsed_s is not a float64"),
        ("stage", "of variable length", "not a text of fixed length"),
        ("stage", np.bytes_(b"x" * 600), "not a text of fixed length"),
        ("stage", np.bytes_(b"\xff\xfe"), "is not UTF-8"),
        ("stage", h5py.Empty("S5"), "is not a scalar"),
        ("tokens", np.int64(4999), "digest"),
        ("outcome", None, "attribute outcome is missing"),
    ],
)
def test_a_hostile_attribute_is_refused(stored: Path, name: str, value: object, reason: str) -> None:
    with h5py.File(stored, "r+") as file:
        del file.attrs[name]
        if value is not None:
            file.attrs[name] = value
    with pytest.raises(BadResult) as caught:
        read_trial(stored)
    assert reason in caught.value.reason


def test_too_many_tasks_are_refused(stored: Path) -> None:
    with h5py.File(stored, "r+", libver=("v110", "v110")) as file:
        for task in range(100):
            file.create_group(f"eval/task{task}")
    with pytest.raises(BadResult, match="more than 64 tasks"):
        read_trial(stored)


def test_every_truncation_is_refused(stored: Path) -> None:
    whole = stored.read_bytes()
    for length in [*range(0, len(whole), 97), *range(len(whole) - 16, len(whole))]:
        stored.write_bytes(whole[:length])
        with pytest.raises(BadResult) as caught:
            read_trial(stored)
        assert "\n" not in caught.value.reason


@given(data=st.data())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_flipped_bytes_are_refused_or_harmless(
    tmp_path: Path, make_record: MakeRecord, data: st.DataObject
) -> None:
    path = tmp_path / "result.h5"
    write_trial(path, make_record())
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    reason, got = "", None
    try:
        got = read_trial(path)
    except BadResult as error:
        reason = error.reason
    if got is None:
        assert reason
        assert "\n" not in reason
    else:
        assert_same(got, make_record())


WRITER = """
import sys, pickle
from pathlib import Path
from asiarch.results.schema import write_trial
path, pickled = map(Path, sys.argv[1:])
records = pickle.loads(pickled.read_bytes())
print("ready", flush=True)
while True:
    for record in records:
        write_trial(path, record)
"""


def test_a_killed_writer_leaves_one_whole_record(tmp_path: Path, make_record: MakeRecord) -> None:
    records = [make_record(tokens=tokens) for tokens in (1, 2)]
    (tmp_path / "records").write_bytes(pickle.dumps(records))
    path = tmp_path / "trial" / "result.h5"
    write_trial(path, records[0])
    seen = set()
    for attempt in range(6):
        child = subprocess.Popen(
            [sys.executable, "-I", "-c", WRITER, str(path), str(tmp_path / "records")], stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        time.sleep(0.004 * attempt)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        got = read_trial(path)
        seen.add(got.tokens)
        assert_same(got, records[got.tokens - 1])
    assert seen <= {1, 2}


def test_a_summary_refuses_what_is_not_a_number() -> None:
    result = {"score": 0.1, "n": 5, "standard_error": 0.1}
    good = TrialSummary(
        TrialKey(1, 2, 3), 4.0, 4.1, 100.0, 10, 0.1, 9, 0.1, 9, {"mqar": TaskResult(**result)}
    ).to_json()
    assert good["tasks"] == {"mqar": result}
    for name, value in [
        *(("validation_loss", math.nan), ("test_loss", None), ("tasks", 1), ("seed", 1.5)),
        *(("validation_error", math.inf), ("test_error", -0.1), ("test_windows", None)),
    ]:
        with pytest.raises(ValueError, match="need"):
            TrialSummary.from_json({**good, name: value})
    for wrong in (0.1, {**result, "score": math.inf}, {**result, "standard_error": math.nan}, {"score": 0.1}):
        with pytest.raises(ValueError, match="need"):
            TrialSummary.from_json({**good, "tasks": {"mqar": wrong}})


def test_paths_name_their_trial(tmp_path: Path) -> None:
    path = TrialKey(7, 0, 12).result_path(tmp_path)
    assert path == tmp_path / "candidates/0007/trials/rung0-seed12/result.h5"
    assert TrialKey.from_result_path(path) == TrialKey(7, 0, 12)
    assert TrialKey.from_result_path(TrialKey(12345, 3, 1).result_path(tmp_path)) == TrialKey(12345, 3, 1)
    for odd in ("candidates/7/trials/rung0-seed1", "candidates/0007/trials/rung00-seed1", "rung0-seed1"):
        with pytest.raises(BadResult):
            TrialKey.from_result_path(tmp_path / odd / "result.h5")
