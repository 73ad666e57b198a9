"""Training checkpoints of one engine: whole or absent, the newest kept.

A checkpoint is written by DeepSpeed into a temporary folder, forced to the disk and renamed to
`step-000120`. So a folder of that name is complete, whenever its writer was killed.
"""

import shutil
from pathlib import Path
from typing import Any

from deepspeed import DeepSpeedEngine

from asiarch.results.files import fsync

TAG = "state"


class CheckpointFolder:
    """The checkpoints under `root`; at most one stays after each save.

    Args:
        before: the folder of the training that this one continues, where it does.
    """

    def __init__(self, root: Path, before: "CheckpointFolder | None" = None) -> None:
        self.root = root
        self.before = before

    def latest(self) -> Path | None:
        """The newest complete checkpoint, or None where training starts from nothing.

        Raises:
            FileNotFoundError: the checkpoint that this training continues is gone.
        """
        newest = max(self.root.glob("step-*"), default=None, key=lambda path: path.name)
        if newest is None and self.before is not None:
            newest = self.before.latest()
            if newest is None:
                raise FileNotFoundError(f"no checkpoint to continue from in {self.before.root}")
        return newest

    def save(self, engine: DeepSpeedEngine, step: int, state: dict[str, Any]) -> None:
        """Store the engine with `state`, as what was reached after `step` steps."""
        final = self.root / f"step-{step:06d}"
        if final.exists():
            return
        temporary = self.root / f".writing-{step:06d}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        engine.save_checkpoint(str(temporary), tag=TAG, client_state=state, save_latest=False)
        for path in temporary.rglob("*"):
            fsync(path)
        fsync(temporary)
        temporary.rename(final)
        fsync(self.root)
        for old in self.root.iterdir():
            if old != final:
                shutil.rmtree(old, ignore_errors=True)

    def load(self, engine: DeepSpeedEngine) -> dict[str, Any] | None:
        """Put the newest checkpoint into the engine and return its state; None where there is none."""
        latest = self.latest()
        if latest is None:
            return None
        _, state = engine.load_checkpoint(str(latest), tag=TAG)
        return state
