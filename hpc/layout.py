"""Where things are in a campaign's folder, and how a command finds that folder."""

import os
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from asiarch.models.errors import UserError

if TYPE_CHECKING:  # what `status` imports stays light
    from asiarch.hpc.config import CampaignConfig


@dataclass(frozen=True)
class RunLayout:
    """The paths of one campaign. `root` is the campaign's folder."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "campaign.yaml"

    def dataset(self, config: "CampaignConfig") -> Path:
        """The prepared data: the folder that the configuration names, else the campaign's own."""
        given = config.data.prepared
        return self.root / "data" if given is None else given

    @property
    def code(self) -> Path:
        """The copy of the code that the campaign runs; a folder for PYTHONPATH."""
        return self.root / "code"

    @property
    def stop_request(self) -> Path:
        return self.root / "stop-request"

    @property
    def cancel_requests(self) -> Path:
        return self.root / "cancel-requests"

    @property
    def slots(self) -> Path:
        return self.root / "slots"

    @property
    def results(self) -> Path:
        return self.root / "results.h5"

    @property
    def llm(self) -> Path:
        """What was said to the LLM and by it, and its server's log."""
        return self.root / "llm"

    @property
    def candidates(self) -> Path:
        return self.root / "candidates"

    def candidate(self, candidate: int) -> Path:
        return self.candidates / f"{candidate:04d}"

    def program(self, candidate: int) -> Path:
        return self.candidate(candidate) / "architecture.py"

    def proposal(self, candidate: int) -> Path:
        return self.candidate(candidate) / "proposal.json"

    def check(self, candidate: int) -> Path:
        return self.candidate(candidate) / "check.json"

    def drafts(self, candidate: int) -> Path:
        """What an LLM wrote on the way to a candidate's program, a folder for each try."""
        return self.candidate(candidate) / "drafts"

    def analysis(self, candidate: int) -> Path:
        return self.candidate(candidate) / "analysis.json"

    def trials(self, candidate: int) -> Path:
        return self.candidate(candidate) / "trials"

    def trials_before(self, candidate: int, repair: int) -> Path:
        """The trials of the program that the repair of this number (from 1) mended."""
        return self.candidate(candidate) / f"trials-before-repair{repair}"

    @lru_cache(maxsize=4096)  # noqa: B019 - asked for every second
    def trial(self, candidate: int, rung: int, seed: int) -> "TrialLayout":
        return TrialLayout(self.trials(candidate) / f"rung{rung}-seed{seed}")

    def jobs(self, candidate: int, rung: int) -> Path:
        """The folder of submitit's pickles and logs for one candidate job."""
        return self.root / "slurm" / f"{candidate:04d}-rung{rung}"


@dataclass(frozen=True)
class TrialLayout:
    """The paths of one trial."""

    root: Path

    @cached_property
    def result(self) -> Path:
        return self.root / "result.h5"

    @cached_property
    def failure(self) -> Path:
        return self.root / "failure.json"

    @cached_property
    def progress(self) -> Path:
        return self.root / "progress.json"

    @cached_property
    def lock(self) -> Path:
        return self.root / "lock"

    @cached_property
    def checkpoint(self) -> Path:
        return self.root / "checkpoint"

    @cached_property
    def tasks(self) -> Path:
        """The checkpoints of the synthetic tasks' own small models, a folder each."""
        return self.root / "tasks"

    @cached_property
    def evaluation(self) -> Path:
        """What each part of the evaluation gave, a JSON file each; `result` has them all once it is there."""
        return self.root / "evaluation"


def find_run(given: Path | None) -> RunLayout:
    """The campaign meant: `--run`, else `ASIARCH_RUN`, else the nearest one from the current folder upward.

    Raises:
        UserError: there is none, or the folder named is none.
    """
    named = given or (Path(os.environ["ASIARCH_RUN"]) if os.environ.get("ASIARCH_RUN") else None)
    if named is not None:
        layout = RunLayout(named.resolve())
        if layout.config.is_file():
            return layout
        raise UserError(
            f"{named}: no campaign here (no campaign.yaml); start one with: asiarch-hpc run CONFIG"
        )
    here = Path.cwd()
    for folder in (here, *here.parents):
        layout = RunLayout(folder)
        if layout.config.is_file() and (folder / "journal.jsonl").is_file():
            return layout
    raise UserError("no campaign in this folder or above it: name it with --run DIR or ASIARCH_RUN")
