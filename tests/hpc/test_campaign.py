"""Whole campaigns through the command line, disturbed and undisturbed, with real training."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from programs import PROGRAM

from asiarch.hpc.cli.main import main
from asiarch.hpc.code_version import code_version
from asiarch.hpc.journal import read_journal
from asiarch.hpc.locks import is_locked
from asiarch.hpc.state import CampaignState
from campaigns import CAMPAIGN, command, environment, numbers, run_to_the_end, write_campaign

pytestmark = pytest.mark.slow

# A head that kills itself with SIGKILL right before, or right after, the first journal line of a kind. Programs
# from a folder take the place of baselines, a finished trial counts as one GPU-hour, and where a trial is to be
# interrupted the head kills it as soon as it works.
SUICIDAL_HEAD = """
import json, os, signal, sys, time
from pathlib import Path
import asiarch.hpc.proposals as proposals
from asiarch.hpc.journal import Journal
from asiarch.hpc.state import CampaignState
kind, moment, planted = sys.argv.pop(1), sys.argv.pop(1), Path(sys.argv.pop(1))
append, baseline_path = Journal.append, proposals.baseline_path
def deadly(self, event, **fields):
    if event == kind and moment == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    record = append(self, event, **fields)
    if event == kind:
        os.kill(os.getpid(), signal.SIGKILL)
    if event == "submitted" and kind in ("budget_reached", "trial_interrupted"):
        trial = f"rung{fields['rung']}-seed{fields['seeds'][0]}"
        progress = Path("candidates") / f"{fields['candidate']:04d}" / "trials" / trial / "progress.json"
        while not progress.exists():
            time.sleep(0.01)
        os.kill(json.loads(progress.read_text())["pid"], signal.SIGKILL)
    return record
def plant(name):
    own = planted / f"{name}.py"
    return own if own.exists() else baseline_path(name)
Journal.append, proposals.baseline_path = deadly, plant
CampaignState.gpu_hours = property(lambda self: float(len(self.summaries)))
from asiarch.hpc.cli.main import main
main()
"""
KINDS = (
    *("campaign_started", "head_started", "proposed", "accepted", "submitted", "trial_started"),
    *("trial_finished", "promoted", "stopped_early", "campaign_finished", "head_stopped"),
)
# a campaign whose second program looks ahead, whose third raises at the training length alone, and whose
# proposer has no budget left
TROUBLED = (
    CAMPAIGN.replace("candidates: 3", "candidates: 3, gpu_hours: 0.5").replace(
        "tokens: 24_576", "tokens: 196_608"
    )
    + "baselines: [delta_net, gla, softmax_attention]\n"
)
TROUBLED_KINDS = ("refused", "budget_reached", "trial_interrupted", "trial_failed")
LOOKS_AHEAD = PROGRAM.format(output="self.proj(hidden_states.flip(1))")
RAISES = PROGRAM.format(output="self.proj(hidden_states) / (1 // (hidden_states.shape[:2] != (8, 128)))")


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
    assert events["trial_started"] == events["trial_finished"]
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
    assert "training tokens/s" in story
    assert re.search(r"mqar +\d+ +[01]\.\d{3} \+-0\.\d{3} ", story)
    shown = json.loads(said("show", "1", "--json"))
    assert shown["parent"] == 0
    assert [row["length"] for row in shown["speed"]] == [32, 64]
    assert all(row["train_tokens_per_s"] > row["train_standard_error"] > 0 for row in shown["speed"])
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
    died = kill_heads(config, run_dir, KINDS)
    run_to_the_end(config, run_dir)
    assert died >= len(KINDS), f"only {died} of the heads met their event"
    assert numbers(run_dir) == numbers(undisturbed)
    assert_nothing_ran_twice(run_dir)


@pytest.mark.faults
def test_a_head_killed_in_a_campaign_full_of_failures_changes_nothing(tmp_path: Path) -> None:
    """With programs planted in place of two baselines: one that is refused and one that fails in training."""
    (tmp_path / "gla.py").write_text(LOOKS_AHEAD)
    (tmp_path / "softmax_attention.py").write_text(RAISES)
    config = write_campaign(tmp_path, TROUBLED)
    for run_dir, kinds in ((tmp_path / "quiet", ()), (tmp_path / "killed", TROUBLED_KINDS)):
        died = kill_heads(config, run_dir, kinds)
        assert died == 2 * len(kinds), f"only {died} of the heads met their event"
        assert kill_head(config, run_dir, "no such event", "after") == 0
        assert_nothing_ran_twice(run_dir)
    quiet, killed = numbers(tmp_path / "quiet"), numbers(tmp_path / "killed")
    assert [row[4] for row in quiet["candidates"]] == ["finished", "refused", "failed"]
    assert "candidate_code: ZeroDivisionError" in quiet["candidates"][2][6]
    assert killed == quiet
    events = Counter(event["event"] for event in read_journal(tmp_path / "killed"))
    assert set(TROUBLED_KINDS) <= set(events)


def kill_heads(config: Path, run_dir: Path, kinds: Sequence[str]) -> int:
    """Start one head after another, each to die at one moment; how many of them did."""
    ends = [kill_head(config, run_dir, kind, moment) for kind in kinds for moment in ("before", "after")]
    return sum(end == -signal.SIGKILL for end in ends)


def kill_head(config: Path, run_dir: Path, kind: str, moment: str) -> int:
    """Run a head that dies at its first event of a kind; its exit code."""
    script = [sys.executable, "-c", SUICIDAL_HEAD, kind, moment, str(config.parent)]
    head = subprocess.Popen(
        [*script, "run", str(config), "--run", str(run_dir)], stdout=subprocess.DEVNULL, env=environment()
    )
    return head.wait(timeout=600)


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


def test_trials_of_two_ranks_find_what_trials_of_one_do(undisturbed: Path, tmp_path: Path) -> None:
    """Candidates and programs alike, losses within rounding; a rank is killed alone meanwhile."""
    config, run_dir = write_campaign(tmp_path, CAMPAIGN + "local: {slots: 1, ranks: 2}\n"), tmp_path / "run"
    head = subprocess.Popen(command(config, run_dir), stdout=subprocess.DEVNULL, env=environment())
    deadline = time.monotonic() + 200
    while not (ranks := children_of_warm(run_dir)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(max(ranks), signal.SIGKILL)
    assert head.wait(timeout=600) == 0
    causes = [e["cause"] for e in read_journal(run_dir) if e["event"] == "trial_interrupted"]
    assert causes
    assert set(causes) <= {"rank_lost", "killed"}
    one, two = numbers(undisturbed), numbers(run_dir)
    assert [c[:4] for c in two["candidates"]] == [c[:4] for c in one["candidates"]]
    assert two["programs"] == one["programs"]
    for name in (name for name in one if name.endswith("train/loss")):
        np.testing.assert_allclose(two[name], one[name], rtol=1e-3, err_msg=name)
    assert_nothing_ran_twice(run_dir)


def test_a_silent_trial_is_ended_and_tried_again(undisturbed: Path, tmp_path: Path) -> None:
    config = write_campaign(tmp_path, CAMPAIGN + "watchdog: {no_progress: 6s}\n")
    run_dir = tmp_path / "run"
    head = subprocess.Popen(command(config, run_dir), stdout=subprocess.DEVNULL, env=environment())
    os.kill(next(iter(wait_for_training(run_dir).values())), signal.SIGSTOP)
    assert head.wait(timeout=600) == 0
    interrupted = [event for event in read_journal(run_dir) if event["event"] == "trial_interrupted"]
    assert [event["cause"] for event in interrupted] == ["no_progress"]
    assert "no sign of life for 6 s" in interrupted[0]["detail"]
    assert numbers(run_dir) == numbers(undisturbed)


def test_an_implausible_loss_is_a_failure_however_many_trials_run_at_a_time(tmp_path: Path) -> None:
    """With one slot the trial's own watchdog sees it, with six the head, once the reference is done."""
    found = []
    for slots in (1, 6):
        folder = tmp_path / str(slots)
        folder.mkdir()
        more = f"watchdog: {{implausible: 0.01}}\nlocal: {{slots: {slots}}}\n"
        config = write_campaign(folder, CAMPAIGN.replace("rungs: [0.5, 1.0]", "rungs: [1.0]") + more)
        run_to_the_end(config, folder / "run")
        failed = [event for event in read_journal(folder / "run") if event["event"] == "trial_failed"]
        assert {event["cause"] for event in failed} == {"implausible"}
        details = sorted((e["candidate"], e["seed"], e["detail"]) for e in failed)
        candidates = numbers(folder / "run")["candidates"]
        found.append((details, [candidate[:5] for candidate in candidates]))
    assert found[0] == found[1]
    assert "below the reference's" in found[0][0][0][2]
    assert "failed" in {candidate[4] for candidate in found[0][1]}


def children_of_warm(run_dir: Path) -> list[int]:
    """The processes that train now: children of the campaign's warm process, once a trial has begun."""
    found = []
    for path in training(run_dir).values():
        parent = int(Path(f"/proc/{path}/stat").read_text().rpartition(")")[2].split()[1])
        assert b"asiarch.hpc.warm" in Path(f"/proc/{parent}/cmdline").read_bytes()
        found = [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
    return found if len(found) == 2 else []


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
        if progress["phase"] in ("training", "mqar") and is_locked(path.with_name("lock")):
            found[path.parent] = int(progress["pid"])
    return found


def wait_for_training(run_dir: Path) -> dict[Path, int]:
    deadline = time.monotonic() + 200
    while not (found := training(run_dir)):
        assert time.monotonic() < deadline, "no trial trained"
        time.sleep(0.02)
    return found


def asked_to_stop(run_dir: Path, *options: str) -> str:
    """What `asiarch-hpc stop` says."""
    result = CliRunner().invoke(main, ["stop", *options, "--run", str(run_dir)])
    assert result.exit_code == 0, result.output
    return result.output


def test_stop_lets_trials_end_or_cuts_them_short_and_loses_nothing(undisturbed: Path, tmp_path: Path) -> None:
    config, run_dir = write_campaign(tmp_path), tmp_path / "run"
    head = subprocess.Popen(command(config, run_dir), stdout=subprocess.PIPE, text=True, env=environment())
    wait_for_training(run_dir)
    assert "nothing new is begun" in asked_to_stop(run_dir)
    output, _ = head.communicate(timeout=200)
    assert head.returncode == 3, output
    before = CampaignState.replay(read_journal(run_dir))
    assert before.stop_reason == "stop requested (drain)"
    trials = [trial for candidate in before.candidates.values() for trial in candidate.trials.values()]
    assert trials
    assert all(trial.status == "finished" for trial in trials)
    head = subprocess.Popen(command(config, run_dir), stdout=subprocess.PIPE, text=True, env=environment())
    wait_for_training(run_dir)
    began = time.monotonic()
    assert asked_to_stop(run_dir, "--now").startswith("stopped; `asiarch-hpc run --run")
    assert time.monotonic() - began < 40
    assert head.wait(timeout=30) == 3
    assert not [lock for lock in run_dir.glob("candidates/*/trials/*/lock") if is_locked(lock)]
    refused = CliRunner().invoke(main, ["stop", "--run", str(run_dir)])
    assert refused.exit_code == 2
    assert "no head is running" in refused.output
    run_to_the_end(config, run_dir)
    assert numbers(run_dir) == numbers(undisturbed)


def test_a_campaign_goes_on_with_the_code_it_began_with(tmp_path: Path) -> None:
    """Seen from the other side: the campaign's copy is changed, so the installed code is the one that differs."""
    small = CAMPAIGN.replace("candidates: 3", "candidates: 1").replace("seeds: 2", "seeds: 1")
    config, run_dir = write_campaign(tmp_path, small), tmp_path / "run"
    head = subprocess.Popen(command(config, run_dir), stdout=subprocess.DEVNULL, env=environment())
    wait_for_training(run_dir)
    asked_to_stop(run_dir, "--now")
    assert head.wait(timeout=30) == 3
    logs = run_dir / "slurm"
    assert "from the copy" not in "".join(path.read_text() for path in logs.rglob("*_log.out"))
    for name in ("campaign", "train_trial"):
        path = run_dir / "code" / "asiarch" / "hpc" / f"{name}.py"
        path.write_text(path.read_text() + f'print("{name} from the copy", flush=True)\n')
    assert "campaign from the copy" in run_to_the_end(config, run_dir)
    warm, trials = (logs / "warm.log").read_text(), sorted(run_dir.glob("candidates/*/trials/*/result.h5"))
    assert "train_trial from the copy" in warm
    with h5py.File(trials[-1]) as file:
        assert file.attrs["code_version"].decode() != code_version()


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
