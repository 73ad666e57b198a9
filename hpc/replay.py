"""A campaign gone through again from what it left: its trials' results in place of training, without GPU or queue."""

from collections.abc import Sequence
from pathlib import Path

from asiarch.hpc.jobs import End, TrialId
from asiarch.hpc.layout import RunLayout
from asiarch.results.files import atomic_write_bytes


class RecordedJobs:
    """Jobs whose results another run of the same campaign has; see `Jobs`. They end when they are submitted."""

    def __init__(self, run: RunLayout, recorded: RunLayout) -> None:
        self._run = run
        self._recorded = recorded

    def submit(
        self, candidate: int, rung: int, seeds: Sequence[int], attempt: int, exclude: Sequence[str]
    ) -> list[str]:
        """Bring what the same trials left then; see `Jobs.submit`."""
        for seed in seeds:
            trial = self._run.trial(candidate, rung, seed)
            trial.root.mkdir(parents=True, exist_ok=True)
            there = self._trials(candidate) / trial.root.name
            for path in (trial.result, trial.failure):
                if (there / path.name).exists():
                    atomic_write_bytes(path, (there / path.name).read_bytes())
        return ["recorded"] * len(seeds)

    def _trials(self, candidate: int) -> Path:
        """Where the recorded run has the trials of the program at hand: later repairs moved earlier trials away."""
        repair = 1
        while self._run.trials_before(candidate, repair).exists():
            repair += 1
        moved = self._recorded.trials_before(candidate, repair)
        return moved if moved.exists() else self._recorded.trials(candidate)

    def adopt(self, trial: TrialId, job: str) -> None:
        """Nothing runs."""

    def end(self, trial: TrialId) -> End | None:
        """See `Jobs.end`; what has neither result nor failure was not done when the record was made."""
        return End("killed", f"{self._recorded.root} has no end of this trial", own_fault=True)

    def running_since(self, trial: TrialId) -> float | None:
        """Never."""
        return None

    def node(self, trial: TrialId) -> str:
        """None."""
        return ""

    def stop(self, trials: Sequence[TrialId], patience_s: float) -> None:
        """Nothing runs."""

    def leave(self, trials: Sequence[TrialId]) -> None:
        """Nothing runs."""
