"""Candidate jobs, here or under Slurm: one submitit array job a candidate and rung, its tasks are the seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from asiarch.hpc.failures import Cause

TrialId = tuple[int, int, int]  # (candidate, rung, seed)


@dataclass(frozen=True)
class End:
    """How a job ended that left neither a result nor a failure of its own.

    own_fault: whether it counts against the trial's restarts. node: where it ran, empty where that is not known.
    """

    cause: Cause
    detail: str
    own_fault: bool
    node: str = ""


class SubmissionRefusedError(Exception):
    """The job was not taken now.

    for_good: nor will it be, unless the request or the site changes. passing: what stands in its way goes by itself.
    With neither nobody knows.
    """

    def __init__(self, reason: str, for_good: bool = False, passing: bool = False) -> None:
        super().__init__(reason)
        self.for_good, self.passing = for_good, passing


class Jobs(Protocol):
    """Submits trials and says which of them may still bring a result."""

    def submit(
        self, candidate: int, rung: int, seeds: Sequence[int], attempt: int, exclude: Sequence[str]
    ) -> list[str]:
        """Submit one array job; gives the job id of each seed's task.

        Args:
            attempt: how often this candidate was submitted at this rung before; with it the job's name is unique.
            exclude: nodes to stay away from.

        Raises:
            SubmissionRefusedError: not now.
        """
        ...

    def adopt(self, trial: TrialId, job: str) -> None:
        """Take over a trial that a head before this one submitted."""
        ...

    def end(self, trial: TrialId) -> End | None:
        """How its job ended; None while it may still bring a result, and while nobody knows."""
        ...

    def running_since(self, trial: TrialId) -> float | None:
        """When it was first seen at work, in seconds since the epoch; None while it is not."""
        ...

    def node(self, trial: TrialId) -> str:
        """The one node that it ran on as last seen; empty where that is not known, or not one."""
        ...

    def stop(self, trials: Sequence[TrialId], patience_s: float) -> None:
        """Ask trials to write a checkpoint and end; kill those that have not after `patience_s`."""
        ...

    def leave(self, trials: Sequence[TrialId]) -> None:
        """The head goes: what is to become of the trials under way."""
        ...
