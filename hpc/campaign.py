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
from types import FrameType
from typing import Any, Literal

from asiarch.agents.proposer import NothingNew
from asiarch.hpc.check import run_check
from asiarch.hpc.config import CampaignConfig
from asiarch.hpc.data import open_dataset
from asiarch.hpc.failures import RETRIED, Implausible, read_failure
from asiarch.hpc.head_log import HeadLog
from asiarch.hpc.jobs import End, Jobs, SubmissionRefusedError, TrialId
from asiarch.hpc.journal import Journal, read_journal
from asiarch.hpc.layout import RunLayout
from asiarch.hpc.local_jobs import LocalJobs
from asiarch.hpc.plausibility import look_for_implausible_loss
from asiarch.hpc.progress import read_progress
from asiarch.hpc.proposals import ProposalStore
from asiarch.hpc.publish import publish_results
from asiarch.hpc.schedule import (
    Action,
    CheckProgram,
    EndProposals,
    Finish,
    Promote,
    Propose,
    Scheduler,
    StopEarly,
    Submit,
)
from asiarch.hpc.slurm_jobs import SlurmJobs
from asiarch.hpc.standings import current_ranking
from asiarch.hpc.state import CampaignState, Candidate, Trial, interruption
from asiarch.hpc.stop_request import StopRequest, clear_stop_request, read_stop_request
from asiarch.hpc.warm import WarmProcess
from asiarch.models.check.settings import CheckSettings
from asiarch.models.errors import UserError
from asiarch.results.ranking import write_ranking
from asiarch.results.record import TrialRecord
from asiarch.results.schema import read_trial
from asiarch.results.trial import BadResult, TrialKey

POLL_S = {"local": 0.2, "slurm": 1.0}
REFUSED_WAIT_S = 10.0  # until a submission that was refused is tried again, ever longer
LONGEST_WAIT_S = 600.0
STOP_PATIENCE_S = 30.0
NODE_MAY_FAIL = 2  # times, before trials stay away from it


class Head:
    """One head at work on one campaign, whose journal it holds."""

    def __init__(self, run: RunLayout, config: CampaignConfig, journal: Journal, log: HeadLog) -> None:
        self._run = run
        self._config = config
        self._journal = journal
        self._log = log
        self.state = CampaignState.replay(read_journal(run.root))
        self._scheduler = Scheduler(config)
        self._proposals = ProposalStore(run, config)
        self._warm = WarmProcess(run.root / "slurm" / "warm.log") if config.executor == "local" else None
        self._jobs: Jobs = (
            SlurmJobs(run, config) if self._warm is None else LocalJobs(run, config, self._warm.address)
        )
        for key, trial in self.state.under_way.items():
            self._jobs.adopt(key, trial.job)
        self._refusals = 0
        self._submit_after = 0.0
        self._stop_reason = ""

    def work(self) -> bool:
        """Run the campaign to its end; False where a signal stopped it first.

        Raises:
            UserError: the reference baseline failed, so nothing can be compared.
        """
        self._listen()
        clear_stop_request(self._run)
        self._record("head_started", pid=os.getpid(), host=socket.gethostname())
        try:
            while not self.state.finished and not self._stop_reason:
                if not self._step():
                    time.sleep(POLL_S[self._config.executor])
        except BaseException as error:
            self._leave(f"{type(error).__name__}: {error}")
            raise
        self._leave(self._stop_reason or "finished")
        return self.state.finished

    def _step(self) -> bool:
        """Do what can be done now; False where there was nothing."""
        self._need_reference()
        collected = self._collect()
        if (request := read_stop_request(self._run)) is not None:
            self._heed(request)
            return collected
        action = self._scheduler.next_action(self.state)
        if isinstance(action, Submit) and time.monotonic() < self._submit_after:
            action = None
        if action is not None:
            self._act(action)
        self._log.show_running(self.state, self._run)
        return collected or action is not None

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

    def _trial(self, key: TrialId) -> Trial:
        return self.state.candidates[key[0]].trials[key[1:]]

    # -- what trials left behind -------------------------------------------------------------------------

    def _collect(self) -> bool:
        found = False
        for key in self.state.under_way:
            found |= self._collect_trial(key)
        return found

    def _collect_trial(self, key: TrialId) -> bool:
        layout = self._run.trial(*key)
        # asked before the files are: a trial that ends in between is seen with its files at the next look
        end = self._jobs.end(key)
        started = self._note_start(key)
        if layout.result.exists():
            if not self._reference_is_settled(key):
                return started  # what is plausible is not known yet
            self._take_result(key)
        elif (failure := read_failure(layout.failure)) is not None:
            self._take_failure(key, End(*failure, own_fault=True))
        elif end is not None:
            self._take_failure(key, end)
        elif self._silent_for(key, "started") > self._config.trial.timeout:
            self._jobs.stop([key], patience_s=1.0)
            self._take_failure(key, End("time_limit", f"not done after {self._config.trial.timeout} s", True))
        elif self._silent_for(key, "updated") > (self._config.watchdog.no_progress or math.inf):
            self._jobs.stop([key], patience_s=1.0)
            silence = f"no sign of life for {self._config.watchdog.no_progress} s"
            self._take_failure(key, End("no_progress", silence, True))
        else:
            return started
        return True

    def _silent_for(self, key: TrialId, since: Literal["started", "updated"]) -> float:
        """Seconds since the trial started, or last wrote of itself; 0 while it is not at work."""
        progress = read_progress(self._run.trial(*key).progress)
        running_since = self._jobs.running_since(key)
        if progress is None or running_since is None:
            return 0.0
        # what a run before this one wrote does not count
        return time.time() - max(getattr(progress, since), running_since)

    def _reference_is_settled(self, key: TrialId) -> bool:
        reference = self.state.candidates[0].trials.get(key[1:])
        return self._is_known(key[0]) or (reference is not None and reference.settled)

    def _is_known(self, candidate: int) -> bool:
        return candidate < len(self._config.baselines)

    def _note_start(self, key: TrialId) -> bool:
        progress = None if self._trial(key).host else read_progress(self._run.trial(*key).progress)
        if progress is None:
            return False
        self._record("trial_started", **_names(key), host=progress.host, pid=progress.pid)
        return True

    def _take_result(self, key: TrialId) -> None:
        path = self._run.trial(*key).result
        try:
            record = read_trial(path)
            if record.key != TrialKey(*key):
                raise BadResult(f"it says that it is {record.key}")
            summary = record.summary()
            self._look_for_leak(record)
        except BadResult as error:
            self._take_failure(key, End("bad_result", error.reason, own_fault=True))
            return
        except Implausible as error:
            self._take_failure(key, End(error.cause, f"Implausible: {error}", own_fault=True))
            return
        seconds = {
            "elapsed": record.elapsed_s,
            "startup": record.startup_s,
            "training": record.training_s,
            "evaluation": record.evaluation_s,
            "gpu_hours": record.gpu_hours,
        }
        self._record("trial_finished", **_names(key), summary=summary.to_json(), seconds=seconds)
        self._after_trial(key[0])

    def _look_for_leak(self, record: TrialRecord) -> None:
        """Again what the trial's watchdog looks for: it may have run before the reference's log was there."""
        key = record.key
        path = self._run.trial(0, key.rung, key.seed).result
        if not self._is_known(key.candidate) and path.exists():
            training = self._config.training
            look_for_implausible_loss(
                record.train.step.tolist(),
                record.train.loss.tolist(),
                read_trial(path).train,
                self._config.watchdog.implausible,
                training.warmup_steps,
            )

    def _take_failure(self, key: TrialId, end: End) -> None:
        trial, progress = self._trial(key), read_progress(self._run.trial(*key).progress)
        reached = "" if progress is None else f"{progress.phase} {progress.step}"
        # what is interrupted again and again at the same place would be so for ever
        counts = int(end.own_fault or (end.cause == "interrupted" and reached == trial.reached))
        names = {**_names(key), "cause": end.cause, "detail": end.detail}
        if end.cause in RETRIED and trial.restarts + counts <= self._config.trial.max_restarts:
            self._set_aside(key)
            self._record("trial_interrupted", **names, counts=counts, reached=reached, node=end.node)
        else:
            self._record("trial_failed", **names)
            self._after_trial(key[0])

    def _set_aside(self, key: TrialId) -> None:
        """Keep what a failed try left under a name of its own, out of the next try's way."""
        layout = self._run.trial(*key)
        for path in (layout.result, layout.failure):
            if path.exists():
                tries = len(list(path.parent.glob(f"{path.stem}-try*{path.suffix}")))
                path.rename(path.with_name(f"{path.stem}-try{tries}{path.suffix}"))

    def _after_trial(self, number: int) -> None:
        candidate = self.state.candidates[number]
        if candidate.settled:
            self._tidy(candidate)
            write_ranking(current_ranking(self._run, self.state), self._run.root)

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

    def _act(self, action: Action) -> None:
        match action:
            case Propose():
                self._propose(action)
            case CheckProgram(candidate):
                self._check(candidate)
            case Submit():
                self._submit(action)
            case Promote(candidate, rung):
                self._record("promoted", candidate=candidate, rung=rung)
            case StopEarly(candidate, rung, reason):
                self._record("stopped_early", candidate=candidate, rung=rung, reason=reason)
                self._after_trial(candidate)
            case EndProposals(reason):
                self._record("budget_reached", reason=reason)
            case Finish():
                self._record("campaign_finished")

    def _submit(self, action: Submit) -> None:
        candidate, rung, seeds = action.candidate, action.rung, action.seeds
        attempt = self.state.candidates[candidate].submissions[rung]
        exclude = [node for node, times in self.state.node_failures.items() if times >= NODE_MAY_FAIL]
        try:
            jobs = self._jobs.submit(candidate, rung, seeds, attempt, sorted(exclude))
        except SubmissionRefusedError as error:
            wait_s = min(LONGEST_WAIT_S, REFUSED_WAIT_S * 2**self._refusals)
            self._refusals += 1
            self._submit_after = time.monotonic() + wait_s
            self._log.refused_submission(candidate, str(error), wait_s)
            return
        self._refusals = 0
        self._record("submitted", candidate=candidate, rung=rung, seeds=list(seeds), jobs=jobs)

    def _propose(self, action: Propose) -> None:
        try:
            stored = self._proposals.make(action.candidate, action.known, self.state)
        except NothingNew as error:
            self._record("budget_reached", reason=f"no new program: {error}")
            return
        proposal = stored.proposal
        self._record(
            "proposed",
            candidate=action.candidate,
            name=proposal.name,
            proposer=proposal.proposer,
            parent=proposal.parent,
            edits=list(proposal.edits),
            fingerprint=stored.fingerprint,
            saw=list(proposal.saw),
            baseline=self._is_known(action.candidate),
        )

    def _check(self, candidate: int) -> None:
        report = run_check(
            self._run.program(candidate),
            self._check_settings(),
            timeout_s=self._config.check.timeout,
            memory_gb=self._config.check.memory_gb,
            report_path=self._run.check(candidate),
        )
        if report.accepted:
            self._record("accepted", candidate=candidate, seconds=round(report.seconds, 2))
            return
        first = report.refusals[0]
        refused = [check.name for check in report.refusals]
        self._record("refused", candidate=candidate, checks=refused, reason=f"{first.name}: {first.message}")
        self._after_trial(candidate)

    def _check_settings(self) -> CheckSettings:
        model = self._config.model
        return CheckSettings(
            hidden_size=model.hidden_size,
            num_heads=model.num_heads,
            layers=model.layers,
            vocab_size=open_dataset(self._run.dataset(self._config)).manifest.vocab_size,
            reference=model.match_parameters_to,
            seed=self._config.seed,
        )

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
        publish_results(self._run, self.state)
        self._record("head_stopped", reason=reason)
        if self._warm is not None:
            self._warm.leave()
        self._log.close()


def _names(key: TrialId) -> dict[str, int]:
    return dict(zip(("candidate", "rung", "seed"), key, strict=True))
