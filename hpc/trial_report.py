"""What a running trial says of itself: lines in its log, and the progress file that `status` reads."""

import os
import socket
import time
from dataclasses import dataclass
from datetime import datetime, timezone

from asiarch.hpc.layout import TrialLayout
from asiarch.hpc.progress import TrialProgress, write_progress
from asiarch.hpc.training.trainer import Progress
from asiarch.results.record import TrialRecord
from asiarch.results.trial import TrialKey


@dataclass(frozen=True)
class TrialReport:
    """The voice of one trial. Rank 0 speaks for all.

    started: of the trial, in seconds since the epoch.
    """

    key: TrialKey
    layout: TrialLayout
    started: float
    rank: int

    def phase(self, phase: str, progress: Progress | None = None, steps: int = 0) -> None:
        """Rewrite the progress file, and print a line where a log interval has ended."""
        if self.rank > 0:
            return
        loss = speed = None
        if progress is not None and progress.curves.loss:
            loss, speed = progress.curves.loss[-1], progress.curves.tokens_per_s[-1]
            self._say_interval(phase, progress, steps)
        write_progress(
            self.layout.progress,
            TrialProgress(
                phase=phase,
                started=self.started,
                updated=time.time(),
                pid=os.getpid(),
                host=socket.gethostname(),
                step=0 if progress is None else progress.step,
                steps=steps,
                loss=loss,
                tokens_per_s=speed,
            ),
        )

    def _say_interval(self, phase: str, progress: Progress, steps: int) -> None:
        curves = progress.curves
        left = (steps - progress.step) * progress.seconds / progress.step
        self.say(
            phase,
            step=f"{progress.step}/{steps}",
            done=f"{progress.step / steps:.0%}",
            loss=f"{curves.loss[-1]:.4f}",
            grad_norm=f"{curves.grad_norm[-1]:.2f}",
            tokens_per_s=f"{curves.tokens_per_s[-1]:.0f}",
            utilisation=f"{curves.flops_utilisation[-1]:.1%}",
            memory_gb=f"{curves.memory_bytes[-1] / 1e9:.2f}",
            data_wait=f"{curves.data_wait[-1]:.1%}",
            left_s=f"{left:.0f}",
        )

    def result(self, record: TrialRecord) -> None:
        """The line of a finished trial."""
        validation = record.validation
        self.say(
            "trial finished",
            validation_loss=f"{validation.loss[-1]:.4f}",
            validation_error=f"{validation.standard_error[-1]:.4f}",
            bits_per_byte=f"{validation.bits_per_byte[-1]:.4f}",
            **{
                task: f"{result.score:.3f}+-{result.standard_error:.3f}"
                for task, result in record.tasks.items()
            },
            elapsed_s=f"{record.elapsed_s:.1f}",
        )

    def say(self, what: str, **values: str) -> None:
        """One line of the trial's log."""
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        pairs = " ".join(f"{name}={value}" for name, value in values.items())
        name = f"{self.key.candidate:04d}/rung{self.key.rung}-seed{self.key.seed}"
        print(f"{now} {name} {what} {pairs}", flush=True)
