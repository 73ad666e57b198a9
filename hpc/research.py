"""What the head has the LLM do, beside its own work: drafts, repairs, analyses and verdicts of one campaign.

Each piece of work is given everything that it may know when it begins, so that what it finds does not depend on
what happens meanwhile. Programs are checked in the sandbox, and kept with the check's report in the candidate's
folder `drafts/`, under the start of their own hash.
"""

import hashlib
import time
from collections.abc import Callable, Hashable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from asiarch.agents.cognition import load_cards
from asiarch.agents.llm.drafts import (
    Attempt,
    Draft,
    DraftFailed,
    Findings,
    OnlyDuplicates,
    Refusal,
    Repaired,
)
from asiarch.agents.llm.model import LlmError, Model
from asiarch.agents.llm.prompts import Prompts
from asiarch.agents.llm.researcher import Context, Researcher
from asiarch.agents.llm.roles.analyst import Analysis
from asiarch.agents.llm.roles.judge import Anchor, Calibration, Judgement
from asiarch.agents.llm.roles.measured import Comparison
from asiarch.agents.llm.roles.summariser import Member
from asiarch.agents.llm.settings import RoleSettings
from asiarch.agents.proposer import KnownCandidate, Proposal
from asiarch.hpc.background import Background
from asiarch.hpc.checking import Checker
from asiarch.hpc.config import CampaignConfig
from asiarch.hpc.layout import RunLayout
from asiarch.models.errors import UserError
from asiarch.results.files import atomic_write_text

Found = TypeVar("Found")
AGAIN_S = (10.0, 300.0)  # until an LLM that cannot be had is asked again, at first and at longest
GIVE_UP = 8  # times in a row that it cannot be had
LEAST_FAMILY = 2  # candidates that have a lesson in common


@dataclass(frozen=True)
class DraftRequest:
    """What a draft may know.

    family: those whose common lesson is to be drawn. seen: fingerprints of what was proposed before.
    """

    parent: KnownCandidate
    references: tuple[KnownCandidate, ...]
    known: tuple[KnownCandidate, ...]
    context: Context
    family: tuple[Member, ...]
    rng: np.random.Generator
    seen: frozenset[str]


@dataclass(frozen=True)
class Reflection:
    """What the analyst and the judge said of a candidate; None where one was not asked or gave no valid answer."""

    analysis: Analysis | None
    judgement: Judgement | None
    outcome: str


class Research:
    """The LLM's work for one campaign.

    Every method that gives None has begun its work, and is to be called again; a second call with the same key
    never begins it twice.

    Args:
        say: told, in a line, when the LLM cannot be had.
    """

    def __init__(
        self,
        run: RunLayout,
        config: CampaignConfig,
        model: Model,
        checker: Checker,
        say: Callable[[str], None],
    ) -> None:
        llm = config.llm
        self._run = run
        self._config = config
        self._checker = checker
        self._say = say
        own_cards, own_prompts = (
            None if place is None else Path(place) for place in (llm.cards, llm.prompts)
        )
        prompts, settings = Prompts.load(own_prompts), role_settings(config)
        self._researcher = Researcher(model, prompts, load_cards(own_cards), settings)
        self._background = Background(llm.parallel)
        self._failures = 0
        self._ask_after = 0.0

    def fits(self, parent: KnownCandidate) -> bool:
        """Whether the LLM's context holds this program, what must be said beside it, and an answer."""
        return self._researcher.fits(parent)

    def draft(self, number: int, turn: int, request: Callable[[], DraftRequest]) -> Proposal | None:
        """A proposal for candidate `number`; what its notes call `failed` is no program to train.

        Args:
            turn: 0, and 1 where the first draft repeats what was proposed while it was made.
            request: called where the work begins.
        """
        key = ("draft", number, turn)
        if not self._background.has(key) and time.monotonic() >= self._ask_after:
            asked = request()
            self._background.begin(key, lambda: self._draft(number, asked))
        return self._take(key)

    def forget_draft(self, number: int) -> None:
        """The candidate is stored."""
        for turn in (0, 1):
            self._background.forget(("draft", number, turn))

    def _draft(self, number: int, asked: DraftRequest) -> Proposal:
        try:
            draft = self._researcher.draft(
                number,
                asked.parent,
                asked.references,
                replace(asked.context, lessons=self._lessons(number, asked.family)),
                asked.known,
                asked.rng,
                asked.seen,
                lambda program: self._check(number, program),
            )
        except OnlyDuplicates as error:
            return _failed_proposal(asked, error.attempts, str(error))
        except DraftFailed as error:
            if error.outcome == "unavailable":
                raise
            return _failed_proposal(asked, error.attempts, f"{error.outcome}: {error}")
        return _proposal(draft)

    def _lessons(self, number: int, family: tuple[Member, ...]) -> str:
        """What the parent's family has taught; empty where it is small, or the LLM gives no valid answer."""
        if len(family) < LEAST_FAMILY:
            return ""
        try:
            return self._researcher.summarise(family[0].id, family, turn=f"for-{number}").text()
        except LlmError as error:
            if error.outcome == "unavailable":
                raise
            return ""

    def _check(self, number: int, program: str) -> Findings:
        folder = self._run.drafts(number) / hashlib.sha256(program.encode()).hexdigest()[:12]
        atomic_write_text(folder / "architecture.py", program)
        report = self._checker.check(folder / "architecture.py", folder / "check.json")
        return Findings(tuple(Refusal(check.name, check.message) for check in report.refusals))

    def repair(
        self,
        number: int,
        repair: int,
        program: str,
        failure: Refusal,
        proposal: Proposal,
        seen: frozenset[str],
    ) -> Repaired | str | None:
        """A program that failed in training, mended; a text where the LLM had no valid answer.

        Args:
            repair: how often the candidate was repaired after failures in training before.
        """
        offset = int(proposal.notes.get("repairs", 0)) + repair * self._config.llm.repairs

        def work() -> Repaired | str:
            try:
                return self._researcher.repair(
                    number,
                    program,
                    Findings((failure,)),
                    seen,
                    lambda text: self._check(number, text),
                    motivation=proposal.motivation,
                    turn_offset=offset,
                )
            except LlmError as error:
                if error.outcome == "unavailable":
                    raise
                return str(error)

        return self._take(("repair", number, repair), work)

    def calibrate(self, anchors: tuple[Anchor, ...]) -> Calibration | None:
        """How well the judge tells the baselines apart."""
        return self._take(("calibrate",), lambda: self._researcher.calibrate(anchors))

    def reflect(
        self,
        number: int,
        program: str,
        proposal: Proposal,
        parent_program: str | None,
        results: Comparison,
        calibration: Calibration | None,
    ) -> Reflection | None:
        """The analysis of a candidate's results, and the judge's verdict where it is `calibration`-ed."""

        def work() -> Reflection:
            analysis = judgement = None
            outcome = "not asked"
            if self._config.llm.analyst:
                try:
                    hypothesis = str(proposal.notes.get("hypothesis", ""))
                    analysis = self._researcher.analyse(
                        number, program, parent_program, proposal.motivation, hypothesis, results
                    )
                    outcome = "analysed"
                except LlmError as error:
                    if error.outcome == "unavailable":
                        raise
                    outcome = f"{error.outcome}: {error}"
            if calibration is not None:
                judgement = self._researcher.judge(number, program, calibration)
            return Reflection(analysis, judgement, outcome)

        return self._take(("reflect", number), work)

    def forget_reflection(self, number: int) -> None:
        """What was said is stored."""
        self._background.forget(("reflect", number))

    def _take(self, key: Hashable, work: Callable[[], Found] | None = None) -> Found | None:
        """What the work of this key gave; None while it is under way, and while the LLM cannot be had.

        Raises:
            UserError: the LLM could not be had too often in a row.
        """
        if time.monotonic() < self._ask_after:
            return None
        if work is not None:
            self._background.begin(key, work)
        try:
            found: Found | None = self._background.take(key)
        except LlmError as error:
            self._failures += 1
            if self._failures >= GIVE_UP:
                raise UserError(
                    f"the LLM cannot be had: {error}; mend it and give the same command again"
                ) from None
            wait_s = min(AGAIN_S[1], AGAIN_S[0] * 2 ** (self._failures - 1))
            self._ask_after = time.monotonic() + wait_s
            self._say(f"llm_unavailable again_in_s={wait_s:.0f} reason={error}")
            return None
        if found is not None:
            self._failures = 0
        return found


def role_settings(config: CampaignConfig) -> RoleSettings:
    """How a campaign's roles ask."""
    llm = config.llm
    return RoleSettings(
        seed=config.seed,
        edits=llm.edits,
        context=llm.context,
        program_tokens=llm.answer,
        text_tokens=min(llm.answer, 800),
        temperature=llm.temperature,
        plan_tries=llm.tries,
        repair_tries=llm.repairs,
    )


def _proposal(draft: Draft) -> Proposal:
    plan = draft.plan
    return Proposal(
        program=draft.program,
        name=plan.name,
        motivation=plan.motivation,
        parent=draft.parent,
        edits=(),
        proposer="llm",
        spec={},
        saw=draft.saw,
        notes={
            "hypothesis": plan.hypothesis,
            "change": plan.change,
            "origins": list(plan.origins),
            "used_cards": list(plan.used_cards),
            "used_candidates": list(plan.used_candidates),
            "shown_cards": list(plan.shown_cards),
            "novelty": draft.novelty,
            "repairs": draft.repairs,
            "attempts": [attempt_record(attempt) for attempt in draft.attempts],
            "ended": draft.ended,
        },
    )


def _failed_proposal(asked: DraftRequest, attempts: tuple[Attempt, ...], reason: str) -> Proposal:
    """The record of a candidate for which the LLM wrote no program to check."""
    return Proposal(
        program=next((attempt.program for attempt in reversed(attempts) if attempt.program), ""),
        name="no-program",
        motivation="",
        parent=asked.parent.id,
        edits=(),
        proposer="llm",
        spec={},
        saw=tuple(one.id for one in (asked.parent, *asked.references) if one.has_result),
        notes={"failed": reason, "attempts": [attempt_record(attempt) for attempt in attempts]},
    )


def attempt_record(attempt: Attempt) -> dict[str, object]:
    """What is kept of an attempt: its program lies under its hash, its answer in the transcript."""
    program = attempt.program.encode()
    return {
        "role": attempt.role,
        "turn": attempt.turn,
        "answered": attempt.answered,
        "program": hashlib.sha256(program).hexdigest()[:12] if program else "",
        "refusals": [asdict(refusal) for refusal in attempt.findings.refusals],
    }
