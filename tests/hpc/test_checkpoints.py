"""Checkpoints: whole or absent, damage is seen, and nothing but tensors and plain values is read."""

import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asiarch.hpc.training.checkpoints import CheckpointFolder, load_checkpoint


def stored(root: Path, steps: int) -> CheckpointFolder:
    folder = CheckpointFolder(root)
    for step in range(steps):
        folder.save(step, {"step": step, "weights": torch.arange(100.0) * step})
    folder.finish()
    return folder


def test_the_newest_is_given_and_two_are_kept(tmp_path: Path) -> None:
    folder = stored(tmp_path, 5)
    newest = folder.latest()
    assert newest is not None
    state = load_checkpoint(newest)
    assert state["step"] == 4
    assert torch.equal(state["weights"], torch.arange(100.0) * 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000003", "step-00000004"]


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_damage_to_the_newest_gives_the_one_before(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = stored(tmp_path_factory.mktemp("damage"), 3)
    name = data.draw(st.sampled_from(["state.pt", "sha256"]))
    file = folder.root / "step-00000002" / name
    content = bytearray(file.read_bytes())
    kind = data.draw(st.sampled_from(["cut", "flip", "gone", "empty"]))
    place = data.draw(st.integers(0, len(content) - 1))
    if kind == "gone":
        file.unlink()
    elif kind == "empty":
        file.write_bytes(b"")
    elif kind == "cut":
        file.write_bytes(content[:place])
    else:
        content[place] ^= 1 << data.draw(st.integers(0, 6))
        file.write_bytes(content)
    latest = folder.latest()
    assert latest is not None
    assert latest.name == "step-00000001"
    folder.save(2, {"step": 2})  # and it can be written again
    folder.finish()
    latest = folder.latest()
    assert latest is not None
    assert load_checkpoint(latest) == {"step": 2}


def test_a_failed_write_is_raised_at_the_next_wait(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    folder = CheckpointFolder(tmp_path / "file" / "checkpoints")
    folder.save(1, {"step": 1})
    with pytest.raises(OSError, match="Not a directory"):
        folder.finish()


def test_a_pickled_object_is_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "state.pt").write_bytes(b"")
    torch.save({"hook": print}, tmp_path / "state.pt")
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        load_checkpoint(tmp_path)
