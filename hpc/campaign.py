"""The head's loop: take in what trials left, decide, act, write each step to the journal.

Every action first leaves its files, then its journal line. A head that is killed between the two finds the
files, or repeats an action that is safe to repeat; see `Jobs` for submissions.
"""

import math
import os
import shutil
import signal
import socket
import time
from contextlib import suppress
from dataclasses import asdict
from types import FrameType
from typing import Any

from asiarch.agents.llm.model import Model
from asiarch.agents.proposer import NothingNew
from asiarch.hpc.accounting import read_usage
from asiarch.hpc.assistant import Assistant
from asiarch.hpc.cancel_request import clear_cancel_request, read_cancel_requests
from asiarch.hpc.checking import Checker
from asiarch.hpc.collection import Collector, set_aside
from asiarch.hpc.config import CampaignConfig
from asiarch.hpc.head_log import HeadLog
from asiarch.hpc.job_names import job_prefix
from asiarch.hpc.jobs import Jobs, SubmissionRefusedError
from asiarch.hpc.journal import Journal, read_journal
from asiarch.hpc.layout import RunLayout
from asiarch.hpc.local_jobs import LocalJobs
from asiarch.hpc.proposals import NO_PROGRAM, ProposalStore
from asiarch.hpc.publish import publish_results
from asiarch.hpc.replay import RecordedJobs
from asiarch.hpc.research import Research
from asiarch.hpc.schedule import (
    Action,
    BeginDraft,
    CalibrateJudge,
    CheckProgram,
    EndProposals,
    Finish,
    Promote,
    Propose,
    Reflect,
    Repair,
    Scheduler,
    StopEarly,
    Submit,
)
from asiarch.hpc.slurm_jobs import SlurmJobs
from asiarch.hpc.standings import write_standings
from asiarch.hpc.state import CampaignState, Candidate, interruption
from asiarch.hpc.stop_request import StopRequest, clear_stop_request, read_stop_request
from asiarch.hpc.warm import WarmProcess
from asiarch.models.errors import UserError

ACCOUNT_EVERY_S = (10.0, 600.0)  # at first, and at longest
POLL_S = {"local": 0.2, "slurm": 1.0}
REFUSALS_IN_VAIN = 10  # in a row, after which a head that nothing runs for leaves
REFUSED_WAIT_S = 10.0  # until a submission that was refused is tried again, ever longer
LONGEST_WAIT_S = 600.0
STOP_PATIENCE_S = 30.0
RANKING_REST = 1000  # times what the last ranking took, until it is made again


class Head:
    """One head at work on one campaign, whose journal it holds."""

    def __init__(
        self,
        run: RunLayout,
        config: CampaignConfig,
        journal: Journal,
        log: HeadLog,
        model: Model | None = None,
        replayed: RunLayout | None = None,
        storage_was_bad: bool = False,
    ) -> None:
        """`model` is the LLM, where there is one; `replayed` a run whose results stand in for training."""
        self._run = run
        self._config = config
        self._journal = journal
        self._log = log
        self.state = CampaignState.replay(read_journal(run.root))
        self._scheduler = Scheduler(config)
        self._checker = Checker(run, config)
        self._research = None if model is None else Research(run, config, model, self._checker, log.say)
        self._proposals = ProposalStore(run, config, self._research, replayed)
        self._assistant: Assistant | None = None
        if self._research is not None:
            self._assistant = Assistant(
                run, self.state, self._proposals, self._research, config, self._record
            )
        self._warm: WarmProcess | None = None
        self._jobs: Jobs
        if replayed is not None:
            self._jobs = RecordedJobs(run, replayed)
        elif config.executor == "slurm":
            self._jobs = SlurmJobs(run, config)
        else:
            self._warm = _warm_process(run, config)
            self._jobs = LocalJobs(run, config, self._warm.address)
        for key, trial in self.state.under_way.items():
            self._jobs.adopt(key, trial.job)
        self._refusals: list[SubmissionRefusedError] = []  # in a row
        self._submit_after = 0.0
        self._stop_reason = ""
        self._account_after, self._account_every_s = 0.0, ACCOUNT_EVERY_S[0]
        self._ranked_at, self._ranking_took_s = -math.inf, 0.0
        self._collector = Collector(
            run, config, self.state, self._jobs, self._record, self._after_trial, storage_was_bad
        )

    def work(self) -> bool:
        """Run the campaign to its end; False where a signal stopped it first.

        Raises:
            UserError: the reference baseline failed, so nothing can be compared.
        """
        self._listen()
        clear_stop_request(self._run)
        own_job = os.environ.get("SLURM_JOB_ID", "")
        self._record("head_started", pid=os.getpid(), host=socket.gethostname(), slurm_job=own_job)
        self._reopen_reference()
        try:
            while not self.state.finished and not self._stop_reason:
                if not self._step():
                    time.sleep(POLL_S[self._config.executor])
        except BaseException as error:
            with suppress(OSError):  # the disk may be what is wrong
                self._leave(f"{type(error).__name__}: {error}")
            raise
        self._leave(self._stop_reason or "finished")
        return self.state.finished

    def _step(self) -> bool:
        """Do what can be done now; False where there was nothing."""
        self._cancel_what_is_asked()
        collected = self._collector.collect()
        self._need_reference()
        if (request := read_stop_request(self._run)) is not None:
            self._heed(request)
            return collected
        self._account()
        acted = any(self._act(action) for action in self._scheduler.actions(self.state))
        self._log.show_running(self.state, self._run)
        return collected or acted

    def _account(self) -> None:
        """Write down what the campaign has cost by Slurm's accounting, ever less often."""
        if self._config.executor != "slurm" or time.monotonic() < self._account_after:
            return
        prefix = job_prefix(self._run, self._config.name)
        usage = read_usage(prefix, self.state.head_jobs, self.state.started)
        if usage is not None and usage != self.state.usage:
            self._record("accounted", **asdict(usage))
        self._account_after = time.monotonic() + self._account_every_s
        self._account_every_s = min(ACCOUNT_EVERY_S[1], 1.5 * self._account_every_s)

    def _heed(self, request: StopRequest) -> None:
        """Begin nothing new; stop when nothing is under way, or at once."""
        if request == "now":
            trials = self.state.under_way
            self._jobs.stop(list(trials), STOP_PATIENCE_S)
            for key, trial in trials.items():
                # said here: to the next head a job that was cancelled would look like a person's verdict on it
                self._record("trial_interrupted", **interruption(key, trial))
        if request == "now" or not self.state.under_way:
            self._stop_reason = f"stop requested ({request})"
            clear_stop_request(self._run)

    def _cancel_what_is_asked(self) -> None:
        """Settle the candidates that a person cancelled."""
        for number in read_cancel_requests(self._run):
            candidate = self.state.candidates.get(number)
            if candidate is not None and not candidate.settled:
                self._jobs.stop([key for key in self.state.under_way if key[0] == number], STOP_PATIENCE_S)
                self._record("cancelled", candidate=number, reason="cancelled by a person")
                self._after_trial(number)
            clear_cancel_request(self._run, number)

    # -- what follows from a trial's end ------------------------------------------------------------------

    def _after_trial(self, number: int) -> None:
        candidate = self.state.candidates[number]
        if candidate.settled:
            self._tidy(candidate)
            self._write_ranking()

    def _write_ranking(self) -> None:
        """Bring ranking.json and .csv up to date, unless that would take more than a small share of the time."""
        began = time.monotonic()
        if began - self._ranked_at < RANKING_REST * self._ranking_took_s:
            return
        write_standings(self._run, self.state)
        self._ranked_at = time.monotonic()
        self._ranking_took_s = self._ranked_at - began

    def _reopen_reference(self) -> None:
        """Who starts a campaign again whose reference failed means it to be tried again."""
        reference = self.state.candidates.get(0)
        if reference is None or reference.status != "failed":
            return
        for (rung, seed), trial in reference.trials.items():
            if trial.status == "failed":
                set_aside(self._run.trial(0, rung, seed))
        self._record("reopened", candidate=0)

    def _need_reference(self) -> None:
        reference = self.state.candidates.get(0)
        if reference is not None and reference.status in ("failed", "refused"):
            raise UserError(
                f"the reference {reference.name} has no result ({reference.reason}), so nothing can be compared "
                f"with it; see: asiarch-hpc logs 0 --run {self._run.root}"
            )

    def _tidy(self, candidate: Candidate) -> None:
        """Drop the checkpoints that nothing continues from; those of the last rung stay."""
        for rung, seed in candidate.trials:
            layout = self._run.trial(candidate.id, rung, seed)
            shutil.rmtree(layout.tasks, ignore_errors=True)
            if rung < candidate.rung:
                shutil.rmtree(layout.checkpoint, ignore_errors=True)

    # -- what the scheduler decided ----------------------------------------------------------------------

    def _act(self, action: Action) -> bool:
        """Do one thing; False where it has to wait, for the LLM or for Slurm."""
        match action:
            case Propose():
                return self._propose(action)
            case BeginDraft(candidate, known):
                self._proposals.begin(candidate, known, self.state)
                return False
            case CheckProgram(candidate):
                self._check(candidate)
            case Repair() | CalibrateJudge() | Reflect():
                return self._assist(action)
            case Submit():
                return self._submit(action)
            case Promote(candidate, rung):
                self._record("promoted", candidate=candidate, rung=rung)
            case StopEarly(candidate, rung, reason):
                self._record("stopped_early", candidate=candidate, rung=rung, reason=reason)
                self._after_trial(candidate)
            case EndProposals(reason):
                self._record("budget_reached", reason=reason)
            case Finish():
                self._record("campaign_finished")
        return True

    def _submit(self, action: Submit) -> bool:
        if time.monotonic() < self._submit_after:
            return False
        candidate, rung, seeds = action.candidate, action.rung, action.seeds
        try:
            jobs = self._hand_in(action)
        except SubmissionRefusedError as error:
            self._refused(action, error)
            return True
        self._refusals.clear()
        self._record("submitted", candidate=candidate, rung=rung, seeds=list(seeds), jobs=jobs)
        return True

    def _assist(self, action: Repair | CalibrateJudge | Reflect) -> bool:
        assert self._assistant is not None
        if isinstance(action, Repair):
            done = self._assistant.repair(action.candidate)
        elif isinstance(action, Reflect):
            done = self._assistant.reflect(action.candidate)
        else:
            return self._assistant.calibrate_judge()
        if done:
            self._after_trial(action.candidate)
        return done

    def _refused(self, action: Submit, error: SubmissionRefusedError) -> None:
        """Try again, ever less often.

        Raises:
            UserError: that is in vain.
        """
        wait_s = min(LONGEST_WAIT_S, REFUSED_WAIT_S * 2 ** len(self._refusals))
        self._refusals.append(error)
        for_good = sum(refusal.for_good for refusal in self._refusals)
        # where sbatch has taken jobs before, it is asked twice
        in_vain = for_good > any(c.submissions for c in self.state.candidates.values())
        unknown = len(self._refusals) >= REFUSALS_IN_VAIN and not error.passing and not self.state.under_way
        if in_vain or unknown:
            raise UserError(
                f"Slurm refuses what the section slurm asks for: {error}; mend it and give the same command again"
            )
        self._submit_after = time.monotonic() + wait_s
        self._log.refused_submission(action.candidate, str(error), wait_s)
        if self.state.submission_refused != str(error):
            self._record(
                "submission_refused", candidate=action.candidate, rung=action.rung, reason=str(error)
            )

    def _hand_in(self, action: Submit) -> list[str]:
        """Submit, away from nodes that failed twice; anywhere where they leave too few."""
        attempt = self.state.candidates[action.candidate].submissions[action.rung]
        avoided = self.state.nodes_to_avoid()
        try:
            return self._jobs.submit(action.candidate, action.rung, action.seeds, attempt, avoided)
        except SubmissionRefusedError as error:
            if not (avoided and error.for_good):
                raise
        return self._jobs.submit(action.candidate, action.rung, action.seeds, attempt, ())

    def _propose(self, action: Propose) -> bool:
        try:
            stored = self._proposals.make(action.candidate, action.known, self.state)
        except NothingNew as error:
            self._record("budget_reached", reason=f"no new program: {error}")
            return True
        if stored is None:
            return False
        proposal = stored.proposal
        written = {}
        if proposal.proposer == "llm":
            may_repair = self._config.llm.repairs
            written = {"may_repair": may_repair, "origins": proposal.notes.get("origins", [])}
        self._record(
            "proposed",
            candidate=action.candidate,
            name=proposal.name,
            proposer=proposal.proposer,
            parent=proposal.parent,
            edits=list(proposal.edits),
            fingerprint=stored.fingerprint,
            saw=len(proposal.saw),  # proposal.json has all of them
            baseline=action.candidate < len(self._config.baselines),
            **written,
        )
        return True

    def _check(self, candidate: int) -> None:
        failed = self._proposals.load(candidate).proposal.notes.get("failed")
        if failed is not None:
            self._record("refused", candidate=candidate, checks=["llm"], reason=f"{NO_PROGRAM}{failed}")
            self._after_trial(candidate)
            return
        report = self._checker.check(self._run.program(candidate), self._run.check(candidate))
        if report.accepted:
            self._record("accepted", candidate=candidate, seconds=round(report.seconds, 2))
            return
        first = report.refusals[0]
        refused = [check.name for check in report.refusals]
        self._record("refused", candidate=candidate, checks=refused, reason=f"{first.name}: {first.message}")
        self._after_trial(candidate)

    # -- coming and going --------------------------------------------------------------------------------

    def _record(self, event: str, **fields: Any) -> None:
        record = self._journal.append(event, **fields)
        self.state.apply(record)
        self._log.event(record, self.state)

    def _listen(self) -> None:
        signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._stop_reason:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a third Ctrl-C ends the head at once
        self._stop_reason = signal.Signals(number).name
        local = self._config.executor == "local"
        self._log.stopping(self._stop_reason, "write a checkpoint and stop" if local else "go on")

    def _leave(self, reason: str) -> None:
        self._jobs.leave(list(self.state.under_way))
        if reason == signal.SIGTERM.name:
            # Slurm kills what takes long, and the next head goes on: results.h5 can wait
            write_standings(self._run, self.state)
        else:
            publish_results(self._run, self.state)
        self._record("head_stopped", reason=reason)
        if self._warm is not None:
            self._warm.leave()
        self._log.close()


def _warm_process(run: RunLayout, config: CampaignConfig) -> WarmProcess:
    run.candidates.mkdir(exist_ok=True)
    writable = None if config.sandbox == "off" else run.candidates
    return WarmProcess(run.root / "slurm" / "warm.log", writable, network=config.ranks > 1)
