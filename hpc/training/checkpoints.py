"""Training checkpoints: whole or absent, known by their hash, the two newest kept.

A checkpoint is one file of tensors and plain values in a folder `step-000120`, beside its SHA-256. The folder
is written under another name, forced to the disk and renamed, by a thread beside training. A checkpoint whose
content does not fit its hash is passed over for the one before it. Files are read as tensors and plain values
alone, never as pickled objects: the process that wrote them has run a program that nobody has read.
"""

import hashlib
import shutil
import threading
from pathlib import Path
from typing import Any

import torch

from asiarch.results.files import fsync

KEPT = 2


class CheckpointFolder:
    """The checkpoints under `root`.

    Args:
        before: the folder of the training that this one continues, where it does.
    """

    def __init__(self, root: Path, before: "CheckpointFolder | None" = None) -> None:
        self.root = root
        self.before = before
        self._writer: threading.Thread | None = None
        self._error: BaseException | None = None

    def latest(self) -> Path | None:
        """The newest sound checkpoint, or None where training starts from nothing.

        Raises:
            FileNotFoundError: the checkpoint that this training continues is gone.
        """
        for path in sorted(self.root.glob("step-*"), reverse=True):
            if _is_sound(path):
                return path
            print(f"checkpoint passed over: {path} does not fit its hash", flush=True)
        if self.before is None:
            return None
        newest = self.before.latest()
        if newest is None:
            raise FileNotFoundError(f"no checkpoint to continue from in {self.before.root}")
        return newest

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Begin to store `state` as what was reached after `step` steps; `finish` waits for the end.

        `state` must not change meanwhile. Raises what an earlier save met.
        """
        self.finish()
        self._writer = threading.Thread(target=self._write, args=(step, state), name="checkpoint")
        self._writer.start()

    def finish(self) -> None:
        """Wait until what was saved is on the disk; raises what writing met."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _write(self, step: int, state: dict[str, Any]) -> None:
        try:
            final = self.root / f"step-{step:08d}"
            if not (final.exists() and _is_sound(final)):
                self._write_folder(final, state)
            self._drop_old()
        except BaseException as error:
            self._error = error

    def _write_folder(self, final: Path, state: dict[str, Any]) -> None:
        temporary = self.root / f".writing-{final.name}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        content = temporary / "state.pt"
        torch.save(state, content)
        (temporary / "sha256").write_text(_sha256(content))
        for path in (content, temporary / "sha256", temporary):
            fsync(path)
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        fsync(self.root)

    def _drop_old(self) -> None:
        names = sorted(path.name for path in self.root.glob("step-*"))
        for old in self.root.iterdir():
            if old.name not in names[-KEPT:]:
                shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state that a checkpoint holds."""
    state: dict[str, Any] = torch.load(path / "state.pt", map_location="cpu", weights_only=True)
    return state


def _is_sound(path: Path) -> bool:
    try:
        return (path / "sha256").read_text() == _sha256(path / "state.pt")
    except (OSError, ValueError):
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()
