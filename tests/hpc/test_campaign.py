"""Whole campaigns through the command line, disturbed and undisturbed, with real training."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from asiarch.hpc.cli.main import main
from asiarch.hpc.journal import read_journal
from asiarch.hpc.locks import is_locked
from campaigns import CAMPAIGN, command, environment, numbers, run_to_the_end, write_campaign

pytestmark = pytest.mark.slow

# a head that kills itself with SIGKILL right before, or right after, the first journal line of a kind
SUICIDAL_HEAD = """
import os, signal, sys
from asiarch.hpc.journal import Journal
kind, moment = sys.argv.pop(1), sys.argv.pop(1)
append = Journal.append
def deadly(self, event, **fields):
    if event == kind and moment == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    record = append(self, event, **fields)
    if event == kind:
        os.kill(os.getpid(), signal.SIGKILL)
    return record
Journal.append = deadly
from asiarch.hpc.cli.main import main
main()
"""
KINDS = (
    *("campaign_started", "head_started", "proposed", "accepted", "submitted", "trial_finished"),
    *("promoted", "stopped_early", "campaign_finished", "head_stopped"),
)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    output = run_to_the_end(write_campaign(folder), folder / "run")
    assert "vs delta_net" in output
    return folder / "run"


def test_the_ranking_and_the_files_are_there(undisturbed: Path) -> None:
    events = Counter(event["event"] for event in read_journal(undisturbed))
    assert events["proposed"] == events["accepted"] == 4
    assert events["promoted"] >= 2
    assert events["trial_finished"] == 2 * (4 + events["promoted"])
    rows = json.loads((undisturbed / "ranking.json").read_text())["rows"]
    assert len(rows) == 4
    sizes = [row["parameters"] for row in rows]
    assert max(sizes) / min(sizes) < 1.02
    for name in ("results.h5", "ranking.csv", "campaign.yaml"):
        assert (undisturbed / name).stat().st_size > 100


def test_reading_commands_show_the_campaign(undisturbed: Path) -> None:
    def said(*arguments: str) -> str:
        result = CliRunner().invoke(main, [*arguments, "--run", str(undisturbed)])
        assert result.exit_code == 0, result.output
        return result.output

    assert re.search(r"finished after .*\n", said("status"))
    status = json.loads(said("status", "--json"))
    assert status["head"] == "finished"
    assert status["trials"]["finished"] == len(list(undisturbed.glob("candidates/*/trials/*/result.h5")))
    assert "delta_net" in said("ranking")
    assert json.loads(said("ranking", "--json"))["reference"] == 0
    story = said("show", "1")
    assert "class " in story
    assert "--- 0000/architecture.py" in story or "--- 000" in story
    assert json.loads(said("show", "1", "--json"))["parent"] == 0
    assert "validation_loss=" in said("logs", "1")
    assert "nothing failed" in said("logs", "--failed")
    missing = CliRunner().invoke(main, ["show", "99", "--run", str(undisturbed)])
    assert missing.exit_code == 2
    assert "no candidate 99" in missing.output


def test_the_same_command_on_a_finished_campaign_runs_nothing_again(undisturbed: Path) -> None:
    before = (undisturbed / "journal.jsonl").read_bytes()
    run_to_the_end(undisturbed.parent / "tiny.yaml", undisturbed)
    assert (undisturbed / "journal.jsonl").read_bytes() == before


def test_other_settings_for_the_same_folder_are_refused(undisturbed: Path, tmp_path: Path) -> None:
    other = write_campaign(tmp_path, CAMPAIGN.replace("seed: 5", "seed: 6"))
    done = subprocess.run(command(other, undisturbed), capture_output=True, text=True, env=environment())
    assert done.returncode == 2
    assert "holds a campaign with other settings" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_head_killed_at_every_kind_of_event_changes_nothing(undisturbed: Path, tmp_path: Path) -> None:
    config, run_dir = write_campaign(tmp_path), tmp_path / "run"
    died = 0
    for moment in ("before", "after"):
        for kind in KINDS:
            head = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    SUICIDAL_HEAD,
                    kind,
                    moment,
                    "run",
                    str(config),
                    "--run",
                    str(run_dir),
                ],
                stdout=subprocess.DEVNULL,
                env=environment(),
            )
            died += head.wait(timeout=600) == -signal.SIGKILL
    run_to_the_end(config, run_dir)
    assert died >= len(KINDS), f"only {died} of the heads met their event"
    assert numbers(run_dir) == numbers(undisturbed)
    assert_nothing_ran_twice(run_dir)


def test_killed_trials_and_a_ctrl_c_change_nothing(undisturbed: Path, tmp_path: Path) -> None:
    config, run_dir = write_campaign(tmp_path), tmp_path / "run"
    head = subprocess.Popen(command(config, run_dir), stdout=subprocess.PIPE, text=True, env=environment())
    killed = [kill_a_training_trial(run_dir) for _ in range(2)]
    assert len(set(killed)) >= 1
    wait_for_training(run_dir)
    head.send_signal(signal.SIGINT)
    output, _ = head.communicate(timeout=120)
    assert head.returncode == 3
    assert f"Go on with: asiarch-hpc run --run {run_dir}" in output
    assert not [lock for lock in run_dir.glob("candidates/*/trials/*/lock") if is_locked(lock)]
    run_to_the_end(config, run_dir)
    interrupted = [event for event in read_journal(run_dir) if event["event"] == "trial_interrupted"]
    assert any(event["cause"] == "killed" and event["counts"] == 1 for event in interrupted)
    assert numbers(run_dir) == numbers(undisturbed)
    assert_nothing_ran_twice(run_dir)


@pytest.mark.parametrize("damage", ["truncated", "garbage"])
def test_a_damaged_result_is_a_failed_trial_and_never_a_score(
    undisturbed: Path, tmp_path: Path, damage: str
) -> None:
    """The file is damaged after the trial wrote it and before the head read it: the head is down meanwhile."""
    config, run_dir = write_campaign(tmp_path), tmp_path / "run"
    head = subprocess.Popen(command(config, run_dir), stdout=subprocess.DEVNULL, env=environment())
    wait_for_training(run_dir)
    head.kill()
    head.wait()
    result = wait_for_result(run_dir)
    content = result.read_bytes()
    result.write_bytes(content[: len(content) // 2] if damage == "truncated" else b"\0" * len(content))
    run_to_the_end(config, run_dir)
    causes = {event.get("cause") for event in read_journal(run_dir)}
    assert "bad_result" in causes
    assert numbers(run_dir) == numbers(undisturbed)


def assert_nothing_ran_twice(run_dir: Path) -> None:
    finished = [event for event in read_journal(run_dir) if event["event"] == "trial_finished"]
    keys = [(event["candidate"], event["rung"], event["seed"]) for event in finished]
    assert len(keys) == len(set(keys))
    logs = [path.read_text() for path in run_dir.glob("slurm/*/*_log.out")]
    ends = Counter(
        match for text in logs for match in re.findall(r"(\S+/rung\d-seed\d) trial finished", text)
    )
    assert set(ends.values()) == {1}
    proposed = [event["candidate"] for event in read_journal(run_dir) if event["event"] == "proposed"]
    assert proposed == sorted(set(proposed))


def training(run_dir: Path) -> dict[Path, int]:
    """The trials that are in the middle of training now, with their process ids."""
    found = {}
    for path in run_dir.glob("candidates/*/trials/*/progress.json"):
        progress = json.loads(path.read_text())
        if progress["phase"] in ("training", "recall") and is_locked(path.with_name("lock")):
            found[path.parent] = int(progress["pid"])
    return found


def wait_for_training(run_dir: Path) -> dict[Path, int]:
    deadline = time.monotonic() + 200
    while not (found := training(run_dir)):
        assert time.monotonic() < deadline, "no trial trained"
        time.sleep(0.02)
    return found


def kill_a_training_trial(run_dir: Path) -> int:
    pid = next(iter(wait_for_training(run_dir).values()))
    os.kill(pid, signal.SIGKILL)
    time.sleep(1.0)
    return pid


def wait_for_result(run_dir: Path) -> Path:
    deadline = time.monotonic() + 200
    while not (found := sorted(run_dir.glob("candidates/*/trials/*/result.h5"))):
        assert time.monotonic() < deadline, "no result was written"
        time.sleep(0.05)
    return found[-1]
