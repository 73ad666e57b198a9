"""What is made of squeue's and sacct's words, with made-up answers: lags, gaps, outages that are rare in a real one."""

import itertools
import os
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

import asiarch.hpc.slurm_jobs as slurm_jobs
import asiarch.hpc.slurm_states as slurm_states
from asiarch.hpc.config import load_config
from asiarch.hpc.job_names import job_prefix
from asiarch.hpc.layout import RunLayout
from asiarch.hpc.slurm_jobs import ENDS, SlurmJobs, clean_environment, job_parameters
from asiarch.hpc.slurm_states import ENDED, SlurmStates, jobs_by_name, run_command
from asiarch.hpc.state import CampaignState, Candidate
from campaigns import write_campaign


class MadeUpSlurm:
    """Answers as it is told; None is a command that fails."""

    def __init__(self) -> None:
        self.queue: str | None = ""
        self.accounting: str | None = ""
        self.calls: list[str] = []

    def __call__(self, command: Sequence[str]) -> str | None:
        self.calls.append(command[0])
        return self.queue if command[0] == "squeue" else self.accounting


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> MadeUpSlurm:
    # every look asks again, but where a test says otherwise
    monkeypatch.setattr(slurm_states, "SHORTEST_S", 0.0)
    monkeypatch.setattr(slurm_states, "LONGEST_S", 0.0)
    return MadeUpSlurm()


def word(states: SlurmStates, job: str) -> str | None:
    state = states.of(job)
    return None if state is None else state.word


def test_squeue_is_believed_first_and_accounting_for_what_it_no_longer_has(slurm: MadeUpSlurm) -> None:
    states = SlurmStates(slurm)
    states.watch(["7_0", "7_1", "9"])
    slurm.queue = "7_0|RUNNING|None|n1\n7_1|PENDING|Resources|\n8_0|RUNNING|None|n2\n"
    # a node failed and the job was requeued: accounting still has the word of its first run
    slurm.accounting = "7_0|NODE_FAIL|0:0|n3\n9|CANCELLED by 1000|0:15|n4\n"
    assert (word(states, "7_0"), word(states, "7_1"), word(states, "9")) == (
        "RUNNING",
        "PENDING",
        "CANCELLED",
    )
    seen = states.of("9")
    assert seen is not None
    assert seen.ended
    assert (seen.exit_code, seen.node) == ("0:15", "n4")
    slurm.queue = ""
    assert word(states, "7_0") == "NODE_FAIL"


def test_what_nobody_knows_is_unknown_and_not_done(
    slurm: MadeUpSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = SlurmStates(slurm)
    states.watch(["5_0"])
    assert states.of("5_0") is None
    assert not states.lost("5_0")
    slurm.queue = "5_0|RUNNING|None|n1\n"
    assert word(states, "5_0") == "RUNNING"
    slurm.queue = None  # the controller does not answer
    assert word(states, "5_0") == "RUNNING"
    later = time.time() + 2 * slurm_states.LOST_S
    monkeypatch.setattr(slurm_states.time, "time", lambda: later)
    assert word(states, "5_0") == "RUNNING"
    assert not states.lost("5_0")


def test_a_job_unknown_for_long_while_slurm_answers_is_lost(
    slurm: MadeUpSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = SlurmStates(slurm)
    states.watch(["5_0"])
    later = time.time() + 2 * slurm_states.LOST_S
    monkeypatch.setattr(slurm_states.time, "time", lambda: later)
    assert states.of("5_0") is None
    assert states.lost("5_0")


def test_an_ended_job_is_asked_for_no_more_and_words_nobody_knows_are_no_end(slurm: MadeUpSlurm) -> None:
    states = SlurmStates(slurm)
    states.watch(["1", "2"])
    slurm.queue = "1|COMPLETED|None|n1\n2|BRAND_NEW_STATE|None|n1\n"
    assert word(states, "1") == "COMPLETED"
    state = states.of("2")
    assert state is not None
    assert not state.ended
    states.forget("2")
    before = len(slurm.calls)
    states.of("1")
    assert len(slurm.calls) == before


def test_one_call_for_all_jobs_ever_less_often_while_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    slurm, clock = MadeUpSlurm(), [0.0]
    monkeypatch.setattr(slurm_states.time, "monotonic", lambda: clock[0])
    states = SlurmStates(slurm)
    jobs = [f"{number}_0" for number in range(500)]
    states.watch(jobs)
    slurm.queue = "".join(f"{job}|RUNNING|None|n1\n" for job in jobs)
    asked = []
    for second in range(3600):
        clock[0] = float(second)
        before = len(slurm.calls)
        for job in jobs[:3]:
            states.of(job)
        if len(slurm.calls) > before:
            asked.append(second)
    gaps = [b - a for a, b in itertools.pairwise(asked)]
    assert len(slurm.calls) == len(asked) < 80
    assert gaps == sorted(gaps)
    assert gaps[-1] == 60


def test_every_word_for_an_end_has_a_cause() -> None:
    assert set(ENDS) == ENDED


def test_names_are_found_in_the_queue_and_in_accounting() -> None:
    slurm = MadeUpSlurm()
    slurm.queue = "12_0|a-1f-0000-r0-t0\n12_1|a-1f-0000-r0-t0\n13|other\n"
    slurm.accounting = "12_0|a-1f-0000-r0-t0\n4|a-1f-0001-r0-t0\n"
    assert jobs_by_name("a-1f-", slurm) == {"a-1f-0000-r0-t0": ["12_0", "12_1"], "a-1f-0001-r0-t0": ["4"]}
    slurm.accounting = None
    assert jobs_by_name("a-1f-", slurm) == {"a-1f-0000-r0-t0": ["12_0", "12_1"]}
    slurm.queue = None
    assert jobs_by_name("a-1f-", slurm) is None


def test_children_know_nothing_of_the_heads_job_but_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_MEM_PER_NODE", "SLURM_CPU_BIND", "SBATCH_PARTITION", "SLURM_CONF"):
        monkeypatch.setenv(name, "x")
    with clean_environment():
        assert [name for name in os.environ if name.startswith(("SLURM", "SBATCH", "SRUN"))] == ["SLURM_CONF"]
    assert os.environ["SLURM_CPU_BIND"] == "x"


def test_a_user_s_own_settings_change_nothing_that_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SQUEUE_PARTITION", "none")
    monkeypatch.setenv("SACCT_FORMAT", "jobid")
    monkeypatch.setenv("SLURM_TIME_FORMAT", "%d.%m.")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    seen = run_command(["env"])
    assert seen is not None
    lines = seen.splitlines()
    assert "SLURM_TIME_FORMAT=standard" in lines
    assert "SLURM_CONF=/etc/slurm.conf" in lines
    assert not [line for line in lines if line.startswith(("SQUEUE", "SACCT"))]


SBATCH = """#!/bin/sh
cd "$(dirname "$0")"
number=$(ls | grep -c script)
cp "$1" script$number
echo "Submitted batch job 10$number"
"""


def test_an_array_is_split_and_asks_for_the_share_that_may_run_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for command in ("sbatch", "srun"):
        (tmp_path / command).write_text(SBATCH)
        (tmp_path / command).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    config = load_config(write_campaign(tmp_path), ["slurm.array_parallelism=2", "executor=slurm"])
    jobs = SlurmJobs(RunLayout(tmp_path / "run"), config)
    monkeypatch.setattr(jobs, "_orphans", {})
    monkeypatch.setattr(jobs, "_max_array_size", 3)
    assert jobs.submit(7, 1, range(4), 2, ["n9"]) == ["100_0", "100_1", "100_2", "101"]
    first, rest = (tmp_path / "script0").read_text(), (tmp_path / "script1").read_text()
    assert "#SBATCH --array=0-2%2\n" in first
    assert "--array" not in rest
    for script, part in ((first, ""), (rest, "-p1")):
        assert "#SBATCH --exclude=n9\n" in script
        assert f"-0007-r1-t2{part}\n" in script
        assert f"asiarch-hpc candidate=7 rung=1 run={tmp_path / 'run'}" in script


def test_of_the_jobs_that_dying_heads_left_the_latest_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(write_campaign(tmp_path), ["executor=slurm"])
    run, cancelled = RunLayout(tmp_path / "run"), []
    jobs = SlurmJobs(run, config)
    name = f"{job_prefix(run, config.name)}0003-r1-t0"
    # one head died before submitit named the pickles of job 9, the next before its journal had job 10
    left = {name: ["9_0", "9_1", "10_0", "10_1"]}
    monkeypatch.setattr(slurm_jobs, "jobs_by_name", lambda prefix: left)
    monkeypatch.setattr(slurm_jobs, "run_command", lambda command: cancelled.append(command))
    monkeypatch.setattr(jobs, "_max_array_size", 1000)
    monkeypatch.setattr(jobs, "_submit", lambda *arguments: pytest.fail("submitted twice"))
    folder = run.jobs(3, 1)
    folder.mkdir(parents=True)
    for seed in (0, 1):
        (folder / f"10_{seed}_submitted.pkl").touch()
    assert jobs.submit(3, 1, [0, 1], 0, []) == ["10_0", "10_1"]
    assert not cancelled


def test_a_node_that_failed_counts_and_is_avoided(tmp_path: Path) -> None:
    config = load_config(write_campaign(tmp_path))
    names = {"candidate": 0, "rung": 0, "seed": 0, "time": "2026-01-01T00:00:00+00:00"}
    ended = {"cause": "node_failure", "detail": "", "counts": 1, "reached": ""}
    state = CampaignState()
    state.candidates[0] = Candidate(0, "a", "grammar", None, "f", baseline=True)
    for node in ("n1", "n2", "n1", ""):
        state.apply({**names, "event": "submitted", "seeds": [0], "jobs": ["1"]})
        state.apply({**names, **ended, "event": "trial_interrupted", "node": node})
    assert state.node_failures == {"n1": 2, "n2": 1}
    assert state.nodes_to_avoid() == ["n1"]
    # Slurm starts the jobs of a lost node again by itself: accounting alone has seen those losses
    usage = {"gpu_hours": 0.0, "cpu_hours": 1.0, "cut_short": 0.0, "heads": 0.0}
    state.apply({**names, "event": "accounted", **usage, "node_failures": {"n2": 1, "n3": 2}})
    assert state.nodes_to_avoid() == ["n1", "n3"]
    assert "exclude" not in job_parameters(config, [])
    assert job_parameters(config, ["n1", "n7"])["exclude"] == "n1,n7"
