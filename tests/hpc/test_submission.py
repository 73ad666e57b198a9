"""What the head does where sbatch refuses: waits, does without, or leaves. Slurm is made up."""

import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from asiarch.hpc import campaign
from asiarch.hpc.campaign import Head
from asiarch.hpc.config import freeze, load_config
from asiarch.hpc.head_log import HeadLog
from asiarch.hpc.jobs import End, SubmissionRefusedError, TrialId
from asiarch.hpc.journal import Journal, read_journal
from asiarch.hpc.layout import RunLayout
from asiarch.hpc.slurm_jobs import CACHES, REFUSED_FOR_GOOD, REFUSED_FOR_NOW
from asiarch.models.errors import UserError

Answer = Callable[[Sequence[str]], None]  # given the nodes to stay away from; raises where sbatch refuses


class MadeUpJobs:
    """Jobs that run for ever, where `answer` lets them in."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.excluded: list[list[str]] = []  # of each submission
        self.taken = 0

    def submit(
        self, candidate: int, rung: int, seeds: Sequence[int], attempt: int, exclude: Sequence[str]
    ) -> list[str]:
        self.excluded.append(list(exclude))
        self.answer(exclude)
        self.taken += 1
        return [f"9_{seed}" for seed in seeds]

    def adopt(self, trial: TrialId, job: str) -> None: ...

    def end(self, trial: TrialId) -> End | None: ...

    def running_since(self, trial: TrialId) -> float | None: ...

    def stop(self, trials: Sequence[TrialId], patience_s: float) -> None: ...

    def leave(self, trials: Sequence[TrialId]) -> None: ...


class MadeUpTime:
    """A clock that jumps where the head sleeps; the head is stopped after a day."""

    def __init__(self) -> None:
        self.now, self.head = 0.0, None

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.now > 86_400 and self.head is not None:
            self.head._stop_reason = "a day is over"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> MadeUpTime:
    clock = MadeUpTime()
    monkeypatch.setattr(campaign, "time", SimpleNamespace(monotonic=clock.monotonic, sleep=clock.sleep))
    monkeypatch.setattr(campaign, "read_usage", lambda *_: None)
    monkeypatch.setattr(campaign, "POLL_S", {"slurm": 5.0})
    monkeypatch.setattr(Head, "_listen", lambda _: None)
    return clock


def write(run: RunLayout, event: str, **fields: Any) -> None:
    record = {"time": "2026-01-01T10:00:00.000+00:00", "event": event, **fields}
    with (run.root / "journal.jsonl").open("a") as file:
        file.write(json.dumps(record) + "\n")


@pytest.fixture
def run(tmp_path: Path) -> RunLayout:
    """A campaign whose reference has trained, and whose second and last candidate is to be submitted."""
    path = tmp_path / "c.yaml"
    path.write_text("name: c\npreset: demo\nseed: 0\nseeds: 1\nbaselines: [delta_net]\nrungs: [1.0]\n")
    config = load_config(path, ["executor=slurm", "budget.candidates=1"])
    run = RunLayout(tmp_path / "run")
    run.root.mkdir()
    run.config.write_text(freeze(config))
    write(run, "campaign_started", seeds=[0], rungs=1)
    for number in (0, 1):
        names = {"name": "x", "proposer": "p", "parent": None, "fingerprint": str(number)}
        write(run, "proposed", candidate=number, baseline=number == 0, **names)
        write(run, "accepted", candidate=number)
    submit(run, 0)
    numbers = {"validation_loss": 3.0, "test_loss": 3.0, "tokens_per_s": 1.0, "parameters": 1, "tasks": {}}
    errors = {f"{split}_{of}": 1 for split in ("validation", "test") for of in ("error", "windows")}
    trial = {"candidate": 0, "rung": 0, "seed": 0}
    seconds = dict.fromkeys(("elapsed", "startup", "training", "evaluation", "gpu_hours"), 1.0)
    write(run, "trial_finished", **trial, summary=trial | numbers | errors, seconds=seconds)
    return run


def submit(run: RunLayout, candidate: int) -> None:
    write(run, "submitted", candidate=candidate, rung=0, seeds=[0], jobs=["1"])


def work(run: RunLayout, clock: MadeUpTime, answer: Answer) -> MadeUpJobs:
    """A head at work until it leaves, or a day is over."""
    jobs = MadeUpJobs(answer)
    config = load_config(run.root.parent / "c.yaml", ["executor=slurm", "budget.candidates=1"])
    with Journal(run.root) as journal, (run.root / "said").open("w") as said:
        head = Head(run, config, journal, HeadLog(2, Console(file=said, soft_wrap=True)))
        head._jobs = head._collector._jobs = jobs  # type: ignore[assignment]
        clock.head = head  # type: ignore[assignment]
        head.work()
    return jobs


def refusing(times: int, **verdict: bool) -> Answer:
    """Refuses so often, then takes what comes."""
    left = iter(range(times))

    def answer(exclude: Sequence[str]) -> None:
        if next(left, None) is not None:
            raise SubmissionRefusedError("sbatch: error: no", **verdict)

    return answer


@pytest.mark.parametrize(
    ("verdict", "asked", "waited_s"),
    [
        ({"for_good": True}, 2, 10),
        ({}, 10, 10 + 20 + 40 + 80 + 160 + 320 + 3 * 600),
    ],
)
def test_a_head_whose_jobs_are_refused_in_vain_leaves_and_can_go_on(
    run: RunLayout, clock: MadeUpTime, verdict: dict[str, bool], asked: int, waited_s: float
) -> None:
    asking: list[float] = []

    def answer(exclude: Sequence[str]) -> None:
        asking.append(clock.now)
        raise SubmissionRefusedError("sbatch: error: no", **verdict)

    with pytest.raises(
        UserError, match=r"Slurm refuses .*sbatch: error: no; mend it and give the same command"
    ):
        work(run, clock, answer)
    assert len(asking) == asked
    assert clock.now == pytest.approx(waited_s, abs=5 * asked)  # it looks every 5 s
    last = read_journal(run.root)[-1]
    assert (last["event"], last["reason"].split(":")[0]) == ("head_stopped", "UserError")
    assert work(run, clock, refusing(0)).taken == 1


def test_one_refusal_for_good_may_be_a_moment_of_reconfiguration(run: RunLayout, clock: MadeUpTime) -> None:
    assert work(run, clock, refusing(1, for_good=True)).taken == 1


def test_what_passes_is_waited_for(run: RunLayout, clock: MadeUpTime) -> None:
    jobs = work(run, clock, refusing(50, passing=True))
    assert (jobs.taken, len(jobs.excluded)) == (1, 51)
    events = [event["event"] for event in read_journal(run.root)]
    assert events.count("submission_refused") == 1  # the same words are written once
    assert "again_in_s=600 reason='sbatch: error: no'" in (run.root / "said").read_text()


def test_a_head_does_not_leave_while_trials_run(run: RunLayout, clock: MadeUpTime) -> None:
    names = {"name": "x", "proposer": "p", "parent": None, "fingerprint": "2"}
    write(run, "proposed", candidate=2, baseline=False, **names)
    write(run, "accepted", candidate=2)
    submit(run, 2)
    assert work(run, clock, refusing(50)).taken == 1


def test_where_nodes_to_avoid_leave_too_few_a_trial_goes_anywhere(run: RunLayout, clock: MadeUpTime) -> None:
    trial = {"candidate": 1, "rung": 0, "seed": 0}
    for _ in range(2):
        submit(run, 1)
        failure = {"cause": "node_failure", "detail": "x", "counts": 1, "reached": "", "node": "n3"}
        write(run, "trial_interrupted", **trial, **failure)

    def answer(exclude: Sequence[str]) -> None:
        if exclude:
            raise SubmissionRefusedError("Requested node configuration is not available", for_good=True)

    assert work(run, clock, answer).excluded == [["n3"], []]
    assert not any(event["event"] == "submission_refused" for event in read_journal(run.root))


# as sbatch 22.05 and 23.11 say it
@pytest.mark.parametrize(
    ("words", "for_good", "passing"),
    [
        ("sbatch: error: invalid partition specified: lwo\nInvalid partition name specified", True, False),
        ("Batch job submission failed: Requested node configuration is not available", True, False),
        (
            "Batch job submission failed: Invalid account or account/partition combination specified",
            True,
            False,
        ),
        ("sbatch: error: QOSMaxSubmitJobPerUserLimit\nJob violates accounting/QOS policy", False, True),
        ("sbatch: error: AssocGrpSubmitJobsLimit\nJob violates accounting/QOS policy", False, True),
        ("Unable to contact slurm controller (connect failure)", False, True),
        ("Batch job submission failed: Socket timed out on send/recv operation", False, True),
        ("Slurm temporarily unable to accept job, sleeping and retrying", False, True),
        ("sbatch: error: QOSMaxWallDurationPerJobLimit\nJob violates accounting/QOS policy", False, False),
        ("sbatch: error: name your project by --comment", False, False),
    ],
)
def test_refusals_are_told_apart(words: str, for_good: bool, passing: bool) -> None:
    assert (bool(REFUSED_FOR_GOOD.search(words)), bool(REFUSED_FOR_NOW.search(words))) == (for_good, passing)


def test_two_clusters_may_count_alike_on_one_node(tmp_path: Path) -> None:
    """Jobs of one number do not share the caches that each removes at its end."""
    script, environment = f'{CACHES}; echo "$ASIARCH_CACHE"', {"SLURM_JOB_ID": "40", "TMPDIR": str(tmp_path)}
    one, two = (
        Path(subprocess.check_output(["/bin/bash", "-c", script], env=environment, text=True).strip())
        for _ in range(2)
    )
    assert one != two
    assert {path.parent for path in (one, two)} == {tmp_path}
    assert one.is_dir()
    assert two.is_dir()
