"""What the head does with the words of the LLM: mends what broke in training, keeps analyses and verdicts."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from asiarch.agents.llm.drafts import Refusal, Repaired
from asiarch.agents.llm.roles.judge import Anchor, Calibration
from asiarch.hpc.config import CampaignConfig
from asiarch.hpc.failures import last_words
from asiarch.hpc.layout import RunLayout
from asiarch.hpc.measurements import compare
from asiarch.hpc.proposals import ProposalStore
from asiarch.hpc.research import Research, attempt_record
from asiarch.hpc.state import CampaignState, Candidate
from asiarch.models.baselines import baseline_path
from asiarch.results.files import atomic_write_text

ANCHORS = {"delta_net": 5.0, "gated_delta_net": 10.0}  # ASI-Arch's scale


class Assistant:
    """Each method gives True once something was done, False while the LLM is at work on it.

    Args:
        record: writes an event and its fields to the journal.
    """

    def __init__(
        self,
        run: RunLayout,
        state: CampaignState,
        proposals: ProposalStore,
        research: Research,
        config: CampaignConfig,
        record: Callable[..., None],
    ) -> None:
        self._run = run
        self._state = state
        self._proposals = proposals
        self._research = research
        self._judges = config.llm.judge
        self._lag = config.search.in_flight
        self._record = record
        self._calibration: Calibration | None = None

    def repair(self, number: int) -> bool:
        """Have a program mended that failed in training, and begin with it anew."""
        candidate = self._state.candidates[number]
        kept = self._run.candidate(number) / f"repair{candidate.repairs + 1}.json"
        if not kept.exists():
            repaired = self._ask_for_repair(candidate)
            if repaired is None:
                return False
            # kept first: what follows takes several steps, and a head may die between any two
            atomic_write_text(kept, json.dumps(_repair_record(repaired), indent=1) + "\n")
        record = json.loads(kept.read_text())
        if record["outcome"] != "accepted":
            self._record("repaired", candidate=number, fingerprint=None, reason=record["ended"])
            return True
        trials, moved = self._run.trials(number), self._run.trials_before(number, candidate.repairs + 1)
        if trials.exists() and not moved.exists():
            trials.rename(moved)
        for checkpoint in moved.glob("*/checkpoint"):
            shutil.rmtree(checkpoint, ignore_errors=True)  # nothing goes on from there
        stored = self._proposals.replace_program(number, record["program"])
        self._record("repaired", candidate=number, fingerprint=stored.fingerprint, reason=record["change"])
        return True

    def _ask_for_repair(self, candidate: Candidate) -> Repaired | str | None:
        stored = self._proposals.load(candidate.id)
        failure = Refusal("training", _what_broke(self._run, candidate))
        seen = frozenset(c.fingerprint for c in self._state.candidates.values())
        return self._research.repair(
            candidate.id, candidate.repairs, stored.proposal.program, failure, stored.proposal, seen
        )

    def calibrate_judge(self) -> bool:
        """Ask for the scores of programs whose scores are given."""
        if self._calibrated() is None:
            return False
        assert self._calibration is not None
        usable = self._calibration.slope is not None
        names = {
            candidate.name: candidate.id
            for candidate in self._state.candidates.values()
            if candidate.baseline
        }
        self._record(
            "judge_calibrated",
            usable=usable,
            reason=self._calibration.reason,
            error=self._calibration.error,
            answers=[list(answer) for answer in self._calibration.answers],
            scores={str(names[name]): score for name, score in ANCHORS.items() if usable and name in names},
        )
        return True

    def _calibrated(self) -> Calibration | None:
        """The calibration; after a restart it comes from answers that were kept."""
        if self._calibration is None:
            anchors = [
                Anchor(place, name, baseline_path(name).read_text(), score)
                for place, (name, score) in enumerate(ANCHORS.items())
            ]
            self._calibration = self._research.calibrate(tuple(anchors))
        return self._calibration

    def reflect(self, number: int) -> bool:
        """Have a candidate's results analysed, and the candidate judged."""
        usable = self._judges and self._state.judge is not None and self._state.judge["usable"]
        if usable and self._calibrated() is None:
            return False
        candidate = self._state.candidates[number]
        proposal = self._proposals.load(number).proposal
        parent = None if candidate.parent is None else self._proposals.load(candidate.parent).proposal.program
        found = self._research.reflect(
            number,
            proposal.program,
            proposal,
            parent,
            compare(candidate, self._state, self._lag),
            self._calibration if usable else None,
        )
        if found is None:
            return False
        self._research.forget_reflection(number)
        if found.judgement is not None:
            score, reason = found.judgement.score, found.judgement.reason
            self._record("judged", candidate=number, score=score, reason=reason)
        held = lacking = None
        if found.analysis is not None:
            held, lacking = found.analysis.held, found.analysis.lacking
        words = {
            "outcome": found.outcome,
            "analysis": None if found.analysis is None else found.analysis.to_json(),
            "judgement": None if found.judgement is None else asdict(found.judgement),
        }
        atomic_write_text(self._run.analysis(number), json.dumps(words, indent=1) + "\n")
        self._record("analysed", candidate=number, outcome=found.outcome, held=held, lacking=lacking)
        return True


def _repair_record(repaired: Repaired | str) -> dict[str, object]:
    if isinstance(repaired, str):
        return {"outcome": "failed", "ended": repaired, "program": "", "change": "", "attempts": []}
    return asdict(repaired) | {"attempts": [attempt_record(attempt) for attempt in repaired.attempts]}


def _what_broke(run: RunLayout, candidate: Candidate) -> str:
    """The candidate's failure with the end of its traceback, which the roles clean and fence."""
    failed = [(slot, trial) for slot, trial in candidate.trials.items() if trial.status == "failed"]
    (rung, seed), trial = failed[0]
    text = f"{trial.cause}: {trial.detail}"
    try:
        record = json.loads(run.trial(candidate.id, rung, seed).failure.read_bytes()[:100_000])
        return f"{text}\n{_own_frames(str(record['traceback']))}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        said = last_words(Path(run.jobs(candidate.id, rung)).glob(f"{trial.job}_*_log.err"))
        return text if said is None else f"{text}\n{said[1]}"


def _own_frames(traceback: str) -> str:
    """From the program's first frame on, without folders: they differ between machines, and a replay is on another."""
    plain = re.sub(r'File "[^"]*/', 'File "', traceback)
    own = plain.find('File "architecture.py"')
    return plain[max(own, 0) :][-2000:]
