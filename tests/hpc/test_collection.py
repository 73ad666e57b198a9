"""What the head makes of a trial that is silent, and of a result that is too good: without processes."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asiarch.hpc.collection import Collector
from asiarch.hpc.config import CampaignConfig, load_config
from asiarch.hpc.jobs import End, TrialId
from asiarch.hpc.layout import RunLayout
from asiarch.hpc.progress import TrialProgress, write_progress
from asiarch.hpc.state import CampaignState
from asiarch.results.record import FINISHED, LossCurve, TrainCurve, TrialRecord
from asiarch.results.schema import write_trial
from asiarch.results.trial import TrialKey


class JobsAtWork:
    """Jobs that all run until they are stopped."""

    def __init__(self) -> None:
        self.stopped: list[TrialId] = []
        self.ends: dict[TrialId, End] = {}

    def end(self, trial: TrialId) -> End | None:
        return self.ends.get(trial)

    def running_since(self, trial: TrialId) -> float | None:
        return 0.0

    def node(self, trial: TrialId) -> str:
        return ""

    def stop(self, trials: list[TrialId], patience_s: float) -> None:
        self.stopped += trials


class Head:
    """A journal of two candidates, the reference and another, each with one trial under way."""

    def __init__(self, folder: Path, more: str = "") -> None:
        (folder / "c.yaml").write_text(f"name: c\npreset: demo\nseed: 0\nseeds: 1\n{more}")
        self.config: CampaignConfig = load_config(folder / "c.yaml")
        self.run, self.state, self.jobs = RunLayout(folder / "run"), CampaignState(), JobsAtWork()
        self.events: list[dict[str, Any]] = []
        self.record("campaign_started", seeds=[0], rungs=1)
        for number in (0, 1):
            names = {"name": "x", "proposer": "p", "parent": None, "fingerprint": str(number)}
            self.record("proposed", candidate=number, baseline=number == 0, **names)
            self.record("accepted", candidate=number)
            self.record("submitted", candidate=number, rung=0, seeds=[0], jobs=["1"])
            self.run.trial(number, 0, 0).root.mkdir(parents=True)
        self.collector = Collector(
            self.run,
            self.config,
            self.state,
            self.jobs,  # type: ignore[arg-type]
            self.record,
            lambda _: None,
            storage_was_bad=False,
        )

    def record(self, event: str, **fields: Any) -> None:
        record = {"time": "2026-01-01T00:00:00+00:00", "event": event, **fields}
        self.events.append(record)
        self.state.apply(record)

    def says(self, candidate: int, seconds_ago: float) -> None:
        then = time.time() - seconds_ago
        path = self.run.trial(candidate, 0, 0).progress
        write_progress(path, TrialProgress("training", then - 1, then, pid=1, host="h", step=7))

    def finish(self, candidate: int, losses: list[float]) -> None:
        write_trial(self.run.trial(candidate, 0, 0).result, record_of(candidate, losses))

    def found(self, event: str) -> list[dict[str, Any]]:
        return [record for record in self.events if record["event"] == event]


def record_of(candidate: int, losses: list[float]) -> TrialRecord:
    count = len(losses)
    steps, ones = 20 * np.arange(1, count + 1), np.ones(count)
    train = TrainCurve(steps, steps, np.array(losses), ones, ones, ones, ones / 2, steps, ones / 2, ones)
    point = LossCurve(np.array([9]), np.array([2.0]), np.array([0.1]), np.array([1.0]), np.array([16]))
    words = {"stage": "demo", "config_hash": "c", "code_version": "1", "torch": "2", "device": "cpu"}
    times = {"elapsed_s": 1.0, "startup_s": 0.1, "training_s": 0.8, "evaluation_s": 0.1, "gpu_hours": 0.0}
    return TrialRecord(
        key=TrialKey(candidate, 0, 0),
        parameters=1,
        tokens=9,
        slurm_job_id="",
        started="2026-11-24T00:00:00+00:00",
        outcome=FINISHED,
        train=train,
        validation=point,
        test=point,
        **words,  # type: ignore[arg-type]
        **times,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(("limit", "ended"), [("10m", [(1, 0, 0)]), ("1h", []), ("null", [])])
def test_a_trial_is_ended_after_its_silence_and_no_sooner(
    tmp_path: Path, limit: str, ended: list[TrialId]
) -> None:
    """Nine minutes without a sign of life are none too many at 10m, eleven are."""
    head = Head(tmp_path, f"watchdog: {{no_progress: {limit}}}\n")
    head.says(0, seconds_ago=540)
    head.says(1, seconds_ago=660)
    head.collector.collect()
    assert head.jobs.stopped == ended
    interrupted = head.found("trial_interrupted")
    assert [(e["candidate"], e["cause"]) for e in interrupted] == [(key[0], "no_progress") for key in ended]
    if interrupted:
        assert interrupted[0]["detail"] == "no sign of life for 600 s"
        assert interrupted[0]["reached"] == "training 7"
        assert interrupted[0]["counts"] == 1


def test_a_cancelled_job_is_tried_once_more_and_no_more(tmp_path: Path) -> None:
    head = Head(tmp_path)
    head.jobs.ends[1, 0, 0] = End("cancelled", "job 1 ended as CANCELLED", own_fault=True)
    head.collector.collect()
    assert [e["cause"] for e in head.found("trial_interrupted")] == ["cancelled"]
    for job in ("2", "3"):  # another end between the two changes nothing
        head.record("submitted", candidate=1, rung=0, seeds=[0], jobs=[job])
        if job == "2":
            head.jobs.ends[1, 0, 0] = End("preempted", "job 2 ended as PREEMPTED", own_fault=False)
        else:
            head.jobs.ends[1, 0, 0] = End("cancelled", "job 3 ended as CANCELLED", own_fault=True)
        head.collector.collect()
    assert [e["cause"] for e in head.found("trial_interrupted")] == ["cancelled", "preempted"]
    assert [e["detail"] for e in head.found("trial_failed")] == ["job 3 ended as CANCELLED"]
    assert not head.found("trial_finished")


FALLING = [5.0 - 0.2 * entry for entry in range(12)]


@pytest.mark.parametrize(("factor", "believed"), [(0.91, True), (0.89, False)])
def test_the_head_looks_again_for_a_loss_that_is_too_low(
    tmp_path: Path, factor: float, believed: bool
) -> None:
    """The trial ended before the reference did, so that no watchdog of its own could compare."""
    head = Head(tmp_path, "watchdog: {implausible: 0.1}\n")
    head.finish(1, [factor * loss for loss in FALLING])
    head.collector.collect()
    assert not head.found("trial_finished")  # what is plausible is not known before the reference is done
    assert not head.found("trial_failed")
    head.finish(0, FALLING)
    while head.collector.collect():
        pass
    assert [e["candidate"] for e in head.found("trial_finished")] == ([0, 1] if believed else [0])
    failed = head.found("trial_failed")
    assert len(failed) == (not believed)
    if failed:
        assert (failed[0]["candidate"], failed[0]["cause"]) == (1, "implausible")
        # the third log entry past the warm-up of 29 steps
        assert failed[0]["detail"].startswith(
            "Implausible: the training loss 3.9160 at step 80 is 11% below the reference's 4.4000: a leak of later"
        )
        assert head.run.trial(1, 0, 0).result.exists()
