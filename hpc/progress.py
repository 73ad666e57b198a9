"""How far a running trial is: a small file that the trial rewrites and `status` and the head read."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class TrialProgress:
    """Where a trial stands. `started` is when it got its slot (Unix time), `updated` the last sign of life."""

    phase: str
    started: float
    updated: float
    pid: int
    host: str
    step: int = 0
    steps: int = 0
    loss: float | None = None
    tokens_per_s: float | None = None


def write_progress(path: Path, progress: TrialProgress) -> None:
    """Replace the file. Not fsynced: it is worth nothing after a crash."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(asdict(progress)))
    temporary.replace(path)


def read_progress(path: Path) -> TrialProgress | None:
    """The last progress of a trial; None before its first, or where the file cannot be read."""
    try:
        return TrialProgress(**json.loads(path.read_bytes()[:10_000]))
    except (OSError, ValueError, TypeError):
        return None
