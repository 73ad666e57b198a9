"""results.h5: one file with what is good, made anew atomically."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from records import loss_curve

import asiarch.results.store as store
from asiarch.results.record import TrialRecord
from asiarch.results.schema import write_trial
from asiarch.results.store import aggregate
from asiarch.results.trial import TaskResult, TrialKey

MakeRecord = Callable[..., TrialRecord]
CANDIDATES = [
    {"candidate": 0, "name": "DeltaNet", "parent": None, "fitness": 0.5, "verified": True},
    {"candidate": 7, "name": "Größer", "parent": 0, "fitness": None, "verified": False},
]


@pytest.fixture
def run_dir(tmp_path: Path, make_record: MakeRecord) -> Path:
    for key in (TrialKey(7, 1, 0), TrialKey(0, 0, 1), TrialKey(7, 0, 0)):
        write_trial(key.result_path(tmp_path), make_record(key=key, tokens=1000 + key.candidate))
    return tmp_path


def test_tables_and_curves(run_dir: Path, make_record: MakeRecord) -> None:
    result = aggregate(run_dir, CANDIDATES)
    assert (result.trials, result.skipped) == (3, ())
    record = make_record()
    with h5py.File(run_dir / "results.h5", "r") as file:
        trials = file["trials"][:]
        keys = [(int(row["candidate"]), int(row["rung"]), int(row["seed"])) for row in trials]
        assert keys == [(0, 0, 1), (7, 0, 0), (7, 1, 0)]
        assert trials["tokens"].tolist() == [1000, 1007, 1007]
        assert trials["validation_loss"].tolist() == [1 / 3] * 3
        assert trials["test_loss"].tolist() == [4.25] * 3
        assert trials["device"][0].decode() == record.device
        assert trials["outcome"].tolist() == [b"finished"] * 3
        scores = file["scores"][:]
        assert scores["score"][scores["task"] == b"mqar"].tolist() == [0.5] * 3
        assert len(scores) == 6
        speeds = file["speeds"][:]
        assert speeds["length"].tolist() == [256, 1024] * 3
        assert speeds["train_tokens_per_s"].tolist() == [1000.0, 900.0] * 3
        candidates = file["candidates"][:]
        assert [name.decode() for name in candidates["name"]] == ["DeltaNet", "Größer"]
        assert candidates["candidate"].tolist() == [0, 7]
        assert candidates["verified"].tolist() == [1, 0]
        np.testing.assert_array_equal(candidates["fitness"], [0.5, np.nan])
        np.testing.assert_array_equal(candidates["parent"], [np.nan, 0.0])
        assert sorted(file["curves"]) == ["0000", "0007"]
        assert file["curves/0007/1/0/loss"][:].tolist() == record.train.loss.tolist()
        assert file["curves/0007/1/0/step"][:].tolist() == record.train.step.tolist()


def test_bad_results_are_skipped_and_named(run_dir: Path, make_record: MakeRecord) -> None:
    torn = TrialKey(7, 0, 0).result_path(run_dir)
    torn.write_bytes(torn.read_bytes()[:3000])
    foreign = TrialKey(8, 0, 0).result_path(run_dir)
    write_trial(foreign, make_record())
    stray = run_dir / "candidates/0009/trials/rung0-seedX/result.h5"
    write_trial(stray, make_record())
    result = aggregate(run_dir, CANDIDATES)
    assert result.trials == 2
    assert [path for path, _ in result.skipped] == [torn, foreign, stray]
    assert all(reason and "\n" not in reason for _, reason in result.skipped)
    with h5py.File(run_dir / "results.h5", "r") as file:
        assert file["trials"]["candidate"].tolist() == [0, 7]


def test_an_unfinished_trial_has_no_number_in_the_table(run_dir: Path, make_record: MakeRecord) -> None:
    empty = loss_curve([], [])
    key = TrialKey(9, 0, 0)
    record = make_record(key=key, outcome="diverged", validation=empty, test=empty, tasks={})
    write_trial(key.result_path(run_dir), record)
    aggregate(run_dir, CANDIDATES)
    with h5py.File(run_dir / "results.h5", "r") as file:
        row = file["trials"][-1]
        assert row["outcome"] == b"diverged"
        assert np.isnan(row["validation_loss"])
        assert np.isnan(row["test_loss"])


def test_an_empty_campaign_gives_empty_tables(tmp_path: Path) -> None:
    assert aggregate(tmp_path, []).trials == 0
    with h5py.File(tmp_path / "results.h5", "r") as file:
        assert [len(file[name]) for name in ("trials", "scores", "candidates", "curves")] == [0, 0, 0, 0]
        assert "score" in file["scores"].dtype.names


def test_the_same_trials_give_the_same_bytes(run_dir: Path, tmp_path: Path) -> None:
    aggregate(run_dir, CANDIDATES, tmp_path / "a.h5")
    aggregate(run_dir, CANDIDATES, tmp_path / "b.h5")
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_hostile_task_names_do_not_widen_a_table(tmp_path: Path, make_record: MakeRecord) -> None:
    for seed in range(8):
        tasks = {f"task-{seed}-{index}": TaskResult(0.5, 1, 0.0) for index in range(60)}
        key = TrialKey(0, 0, seed)
        write_trial(key.result_path(tmp_path), make_record(key=key, tasks=tasks))
    assert aggregate(tmp_path, []).trials == 8
    with h5py.File(tmp_path / "results.h5", "r") as file:
        assert len(file["scores"]) == 480


def test_a_failure_keeps_the_old_file(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = run_dir / "results.h5"
    aggregate(run_dir, CANDIDATES)
    before = out.read_bytes()
    with pytest.raises(ValueError, match="column name mixes"):
        aggregate(run_dir, [{"name": "a"}, {"name": 1}])

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(store, "_write_curve", full)
    with pytest.raises(OSError, match="No space"):
        aggregate(run_dir, CANDIDATES)
    assert out.read_bytes() == before
    assert sorted(path.name for path in run_dir.iterdir()) == ["candidates", "results.h5"]
