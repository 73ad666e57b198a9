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
        progress = TrialProgress(**json.loads(path.read_bytes()[:10_000]))
        return progress if _is_sound(progress) else None
    except (OSError, ValueError, TypeError):
        return None


def _is_sound(progress: TrialProgress) -> bool:
    """Whether a file that a program could have written holds what the head and `status` may show."""
    words = (progress.phase, progress.host)
    counts = (progress.pid, progress.step, progress.steps)
    measures = (progress.started, progress.updated, progress.loss, progress.tokens_per_s)
    return (
        all(isinstance(word, str) and word.isprintable() and len(word) < 256 for word in words)
        and all(isinstance(count, int) and count >= 0 for count in counts)
        and all(value is None or isinstance(value, (int, float)) for value in measures)
        and progress.started is not None
        and progress.updated is not None
    )
