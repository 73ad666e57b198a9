"""`status` and `logs --failed` on a campaign's folder that was written by hand: what they say, and what they import."""

import json
import os
import re
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from asiarch.hpc import status as status_module
from asiarch.hpc.cli.main import main
from asiarch.hpc.config import CampaignConfig, freeze, load_config
from asiarch.hpc.journal import read_journal
from asiarch.hpc.layout import RunLayout
from asiarch.hpc.settings import Settings, read_settings
from asiarch.hpc.slurm_states import PendingJob
from asiarch.hpc.standings import write_standings
from asiarch.hpc.state import CampaignState

HEAVY = ("torch", "deepspeed", "h5py", "numpy", "scipy", "pydantic", "pydantic_core", "submitit")
TRACEBACK = """Traceback (most recent call last):
  File "/code/asiarch/hpc/trial.py", line 9, in work
    train()
  File "/run/candidates/0003/architecture.py", line 31, in forward
    raise RuntimeError("size 3 is wrong")
RuntimeError: size 3 is wrong"""


class Folder:
    """A campaign of 9 candidates, of which 7 are settled two hours after its start."""

    def __init__(self, folder: Path, *settings: str) -> None:
        path = folder / "c.yaml"
        path.write_text(
            "name: small\npreset: demo\nseed: 0\nseeds: 2\nbaselines: [delta_net]\nrungs: [1.0]\n"
        )
        self.config = load_config(path, ["budget.candidates=20", *settings])
        self.run = RunLayout(folder / "run")
        self.run.root.mkdir()
        self.run.config.write_text(freeze(self.config))
        self.lines: list[str] = []

    def write(self, event: str, at: str = "10:00", **fields: Any) -> None:
        record = {"time": f"2026-01-01T{at}:00.000+00:00", "event": event, **fields}
        self.lines.append(json.dumps(record) + "\n")
        (self.run.root / "journal.jsonl").write_text("".join(self.lines))

    def propose(self, number: int, name: str = "", proposer: str = "grammar", **more: Any) -> None:
        names = {"name": name or f"mixer_{number}", "proposer": proposer, "parent": None, "saw": number}
        names |= {"fingerprint": str(number), "edits": [], "baseline": number == 0}
        self.write("proposed", candidate=number, **names, **more)

    def train(self, number: int) -> None:
        self.propose(number, "delta_net" if number == 0 else "")
        self.write("accepted", candidate=number, seconds=1.0)
        jobs = [f"{number + 1}_{seed}" for seed in (0, 1)]
        self.write("submitted", candidate=number, rung=0, seeds=[0, 1], jobs=jobs)

    def finish(self, number: int, **tasks: dict[str, float]) -> None:
        self.train(number)
        for seed in (0, 1):
            names = {"candidate": number, "rung": 0, "seed": seed}
            numbers = {"validation_loss": 3.0 - 0.1 * number, "test_loss": 3.0, "tokens_per_s": 1e3}
            errors = {f"{split}_{of}": 1 for split in ("validation", "test") for of in ("error", "windows")}
            seconds = {"elapsed": 60.0, "startup": 5.0, "training": 40.0, "evaluation": 15.0}
            summary = {**names, **numbers, **errors, "parameters": 10, "tasks": tasks}
            self.write("trial_finished", **names, summary=summary, seconds=seconds | {"gpu_hours": 0.25})

    def fail(self, number: int, cause: str, detail: str) -> None:
        self.train(number)
        for seed in (0, 1):
            names = {"candidate": number, "rung": 0, "seed": seed}
            self.write("trial_failed", **names, cause=cause, detail=detail)

    @property
    def state(self) -> CampaignState:
        return CampaignState.replay(read_journal(self.run.root))

    def said(self, *arguments: str) -> str:
        result = CliRunner().invoke(main, [*arguments, "--run", str(self.run.root)])
        assert result.exit_code == 0, result.output
        return result.output


def small_campaign(folder: Path, *settings: str) -> Folder:
    made = Folder(folder, *settings)
    made.write("campaign_started", name="small", seeds=[0, 1], rungs=1, config_hash="", code_version="")
    made.write("head_started", pid=1, host="n1", slurm_job="")
    made.finish(0)
    made.finish(1)
    made.propose(2)
    made.write("refused", candidate=2, checks=["causality", "cost"], reason="causality: it sees the future")
    for number in (3, 4, 5):
        made.fail(number, "candidate_code", f"RuntimeError: size {number} is wrong")
    made.fail(6, "diverged", "Diverged: the loss is nan")
    made.train(7)
    made.train(8)
    names = {"candidate": 7, "rung": 0, "seed": 0, "cause": "preempted", "detail": "x", "counts": 0}
    made.write("trial_interrupted", **names, reached="", node="")
    made.write("head_stopped", at="12:00", reason="SIGTERM")
    return made


def timeless(screen: str) -> str:
    """Without the minute at which it expects the end, which another call may tell as the next."""
    return re.sub(r"\(until [^)]*\)", "", screen)


def test_status_counts_what_the_journal_says(tmp_path: Path) -> None:
    folder = small_campaign(tmp_path)
    shown = json.loads(folder.said("status", "--json"))
    assert shown["candidates"] == {"finished": 2, "refused": 1, "failed": 4, "training": 2}
    assert shown["trials"] == {"finished": 4, "running": 0, "queued": 4, "failed": 8}
    assert shown["failures"] == {"candidate_code": 6, "diverged": 2}
    assert shown["refused"] == {"causality": 1}
    assert (shown["trial_s"], shown["training_s"], shown["gpu_hours"]) == (240.0, 160.0, 1.0)
    assert [row["candidate"] for row in shown["ranking"]["rows"]] == [1, 0]
    screen = folder.said("status")
    assert "small   stopped (stopped by SIGTERM) after 2 h 00 min" in screen
    assert "vs delta_net" in screen
    assert "failed       6 candidate_code   2 diverged" in screen
    # the head's own tables, of which a screen reads no more than it shows, say the same
    write_standings(folder.run, folder.state)
    written = (folder.run.root / "yields.json").stat().st_mtime
    made = f"; as of {datetime.fromtimestamp(written):%Y-%m-%d %H:%M}\n"
    assert made in folder.said("status")
    assert timeless(folder.said("status").replace(made, "\n")) == timeless(screen)


def test_the_ranking_says_what_chose_and_what_the_fitness_is_made_of(tmp_path: Path) -> None:
    told = small_campaign(tmp_path).said("ranking")
    assert "Validation text chose; the test text chose nothing." in told
    assert "fitness: the loss part, no judge took part." in told
    (tmp_path / "asked").mkdir()
    asked = Folder(tmp_path / "asked")
    asked.write("campaign_started", name="asked", seeds=[0, 1], rungs=1, config_hash="", code_version="")
    for number in (0, 1):
        asked.finish(number, s3={"score": 0.5, "n": 40, "standard_error": 0.1})
    told = asked.said("ranking")
    assert "Validation text and tasks chose; the test text chose nothing." in told
    assert "s3 40 answers" in told
    assert "fitness: mean of the loss part and the tasks' part, no judge took part." in told


def test_tables_that_are_torn_or_that_a_dead_head_left_behind_are_not_shown(tmp_path: Path) -> None:
    folder = small_campaign(tmp_path)
    screen = folder.said("status")
    write_standings(folder.run, folder.state)
    ranking = folder.run.root / "ranking.json"
    ranking.write_bytes(ranking.read_bytes()[:-20])
    assert timeless(folder.said("status")) == timeless(screen)
    folder.write("head_started", at="12:10", pid=1, host="n1", slurm_job="")
    write_standings(folder.run, folder.state)
    folder.finish(9)  # and then the head was killed
    os.utime(folder.run.root / "yields.json", ns=(0, 0))
    shown = json.loads(folder.said("status", "--json"))
    assert {row["candidate"] for row in shown["ranking"]["rows"]} == {0, 1, 9}
    assert [one["trained"] for one in shown["yields"]] == [2]


def test_status_says_where_ideas_came_from(tmp_path: Path) -> None:
    folder = small_campaign(tmp_path)
    assert json.loads(folder.said("status", "--json"))["yields_by_origin"] == []
    folder.propose(9, proposer="llm", may_repair=1, origins=["experience", "cognition"])
    folder.propose(10, proposer="llm", may_repair=1, origins=["experience"])
    folder.write("accepted", candidate=10, seconds=1.0)
    folder.propose(11, proposer="llm", may_repair=1, origins=[])  # the LLM gave no plan

    def told() -> list[tuple[str, int, int, float]]:
        rows = json.loads(folder.said("status", "--json"))["yields_by_origin"]
        return [(row["name"], row["proposed"], row["accepted"], row["shares"]["proposed"]) for row in rows]

    expected = [("experience", 2, 1, 2 / 3), ("cognition", 1, 0, 1 / 3), ("original", 0, 0, 0.0)]
    assert told() == expected
    shown = [line.split() for line in folder.said("status").splitlines()]
    assert ["experience", "2", "67%", "1", "100%", "0", "0", "0", "0", "0", "-"] in shown
    write_standings(folder.run, folder.state)
    assert told() == expected


@pytest.mark.parametrize(
    ("settings", "ended", "left_s"),
    [
        ([], False, 7200 / 7 * (21 - 7)),  # at the rate of 7 candidates in two hours
        ([], True, 7200 / 7 * (9 - 7)),  # no more are proposed
        (["budget.gpu_hours=1.5"], False, 3600.0),  # 1 of 1.5 GPU-hours in two hours
        (["budget.gpu_hours=1e3"], False, 7200 / 7 * (21 - 7)),
    ],
)
def test_status_projects_the_end(tmp_path: Path, settings: list[str], ended: bool, left_s: float) -> None:
    folder = small_campaign(tmp_path, *settings)
    if ended:
        folder.write("budget_reached", at="12:00", reason="no new program")
    earliest = datetime.now()
    shown = json.loads(folder.said("status", "--json"))
    latest = datetime.now()
    assert shown["left_s"] == pytest.approx(left_s)
    minutes = [(now + timedelta(seconds=left_s)).isoformat(" ", "minutes") for now in (earliest, latest)]
    assert minutes[0] <= shown["ends"] <= minutes[1]
    screen = folder.said("status")
    assert "left (until 20" in screen
    budget = [line for line in screen.splitlines() if line.startswith("GPU-hours")]
    assert ("used up in 1 h 00 min" in budget[0]) == (left_s == 3600.0)


def test_status_of_jobs_that_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = small_campaign(tmp_path, "executor=slurm")
    folder.write(
        "submission_refused", at="12:00", candidate=8, rung=0, reason="Job violates accounting policy"
    )
    waiting = [("8_0", "Priority", ""), ("9_0", "Resources", "2026-01-01T14:00:00"), ("9_1", "Priority", "")]
    monkeypatch.setattr(status_module, "pending_jobs", lambda _: [PendingJob(*job) for job in waiting])
    screen = folder.said("status")
    assert (
        "pending      2 Priority, 1 Resources; Slurm expects the first to start at 2026-01-01T14:00" in screen
    )
    assert "sbatch       refused: Job violates accounting policy" in screen


def test_failures_are_grouped_by_cause_and_by_words(tmp_path: Path) -> None:
    folder = small_campaign(tmp_path)
    trial = folder.run.trial(3, 0, 0)
    trial.root.mkdir(parents=True)
    trial.failure.write_text(json.dumps({"cause": "candidate_code", "detail": "x", "traceback": TRACEBACK}))
    logs = folder.run.jobs(6, 0)
    logs.mkdir(parents=True)
    (logs / "7_0_0_log.err").write_text("warning\nthe loss is \x1b[31mnan\n")
    said = folder.said("logs", "--failed").splitlines()
    first, second = (
        said.index("6 failed by candidate_code (the program's fault)"),
        said.index("2 failed by diverged (the program's fault)"),
    )
    assert first < second, "the commonest cause comes first"
    # sizes 3, 4 and 5 are one kind of failure: one example, with its line in the program, stands for six
    group = [line.strip() for line in said[first + 1 : second]]
    assert group[0] == "0003 rung 0 seed 0: RuntimeError: size 3 is wrong"
    assert group[1].startswith('| "/run/candidates/0003/architecture.py", line 31, in forward')
    assert group[2] == '| raise RuntimeError("size 3 is wrong")'
    assert group[3:] == ["5 likewise: 0003 0004 0005"]
    rest = [line.strip() for line in said[second + 1 :]]
    assert rest[:3] == [
        "0006 rung 0 seed 0: Diverged: the loss is nan",
        "| warning",
        "| the loss is  [31mnan",
    ]
    assert rest[3:5] == [str(logs / "7_0_0_log.err"), "1 likewise: 0006"]
    assert "interrupted, and tried again or done since: 1 preempted" in rest
    assert rest[-2].startswith("1 by causality, such as 0002: causality: it sees the future")
    assert folder.said("logs", "1", "--failed") == "nothing failed in candidate 1\n"


@pytest.mark.parametrize("command", ["status", "logs --failed"])
def test_commands_that_read_wait_for_no_heavy_import(tmp_path: Path, command: str) -> None:
    folder = small_campaign(tmp_path)
    write_standings(folder.run, folder.state)
    script = (
        "import sys\nfrom asiarch.hpc.cli.main import main\n"
        f"main({[*command.split(), '--run', str(folder.run.root)]!r}, standalone_mode=False)\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "candidate_code" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def whole(config: CampaignConfig) -> Settings:
    slots = config.local.slots if config.executor == "local" else config.slurm.trials_in_flight
    candidates = len(config.baselines) + config.budget.candidates
    return Settings(config.name, config.executor, slots, candidates, config.budget.gpu_hours)


@pytest.mark.parametrize(
    "settings",
    [
        ["local.slots=3", "budget.gpu_hours=2e4"],
        ["executor=slurm", "slurm.max_in_flight=7"],
        ["executor=slurm", "slurm.max_in_flight=7", "slurm.max_gpus=9"],
        ["executor=slurm", "slurm.nodes=1", "slurm.gpus_per_node=2", "slurm.max_gpus=9"],
    ],
)
def test_settings_read_in_haste_are_those_of_the_whole_configuration(
    tmp_path: Path, settings: list[str]
) -> None:
    folder = Folder(tmp_path, *settings)
    assert read_settings(folder.run.config) == whole(folder.config)


def test_a_configuration_spoilt_by_hand_is_one_line(tmp_path: Path) -> None:
    folder = small_campaign(tmp_path)
    folder.run.config.write_text(folder.run.config.read_text().replace("candidates: 20", "candidates: many"))
    result = CliRunner().invoke(main, ["status", "--run", str(folder.run.root)])
    assert result.exit_code == 2
    assert "campaign.yaml:" in result.output
    assert "budget.candidates" in result.output
    assert "many" in result.output
