"""A campaign whose programs an LLM writes, with a scripted stand-in for the LLM and everything else real."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted_llm import CRASHING, GOOD, LEAKING, ScriptedLlm

from asiarch.hpc.journal import read_journal
from campaigns import CAMPAIGN, command, environment, numbers, run_to_the_end, write_campaign

pytestmark = pytest.mark.slow

SMALL = (
    CAMPAIGN.replace("seeds: 2", "seeds: 1")
    .replace("rungs: [0.5, 1.0]", "rungs: [1.0]")
    .replace("tasks: [mqar, s3]", "tasks: []")
    .replace("candidates: 3", "candidates: 5")
)
# at this seed the planner's five programs are of all three kinds
LLM = """
proposers: {{llm: 1.0}}
baselines: [delta_net, gated_delta_net]
llm: {{base_url: "{base_url}", model: scripted, context: 8192, answer: 1500, repairs: 1, judge: true}}
"""
OF_THE_MOMENT = {"time", "pid", "host", "seconds", "jobs", "slurm_job", "code_version"}


@pytest.fixture(scope="module")
def llm() -> Iterator[ScriptedLlm]:
    server = ScriptedLlm((GOOD, LEAKING, CRASHING))
    yield server
    server.close()


@pytest.fixture(scope="module")
def config(llm: ScriptedLlm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    text = SMALL + LLM.format(base_url=llm.base_url)
    return write_campaign(tmp_path_factory.mktemp("llm"), text)


@pytest.fixture(scope="module")
def undisturbed_run(config: Path, llm: ScriptedLlm) -> tuple[Path, Counter[str]]:
    """The campaign's folder, and how often each role was asked."""
    llm.asked.clear()
    run_to_the_end(config, config.parent / "run")
    return config.parent / "run", Counter(llm.asked)


def journal(run: Path) -> list[dict[str, Any]]:
    """What the journal says, without what depends on the moment, in the order of the candidates."""
    kept = [
        {name: value for name, value in event.items() if name not in OF_THE_MOMENT}
        for event in read_journal(run)
        if event["event"] not in ("head_started", "head_stopped", "trial_interrupted", "trial_started")
    ]
    for event in kept:
        event.get("summary", {}).pop("tokens_per_s", None)
    return sorted(kept, key=lambda event: event.get("candidate", -1))


def test_programs_are_refused_mended_and_analysed(undisturbed_run: tuple[Path, Counter[str]]) -> None:
    run, asked = undisturbed_run
    events = read_journal(run)
    counts = Counter(event["event"] for event in events)
    proposals = [json.loads(path.read_text()) for path in sorted(run.glob("candidates/*/proposal.json"))]
    written = [proposal for proposal in proposals if proposal["proposer"] == "llm"]
    assert len(written) == 5
    # one that leaks is mended before it is proposed, one that crashes in training after that
    leaked = [p for p in written if p["notes"]["attempts"][0]["refusals"]]
    assert leaked
    for proposal in leaked:
        assert {refusal["name"] for refusal in proposal["notes"]["attempts"][0]["refusals"]} & {
            "causal",
            "prefix",
        }
        assert proposal["notes"]["repairs"] == 1
    failed = [event for event in events if event["event"] == "trial_failed"]
    assert failed
    assert {event["cause"] for event in failed} == {"candidate_code"}
    assert counts["repaired"] == len(failed)
    assert asked["repair"] == len(leaked) + len(failed)
    for event in failed:
        folder = run / f"candidates/{event['candidate']:04d}"
        assert "no such chunk" not in (folder / "architecture.py").read_text()
        assert (folder / "trials-before-repair1/rung0-seed0/failure.json").exists()
    # none is lost: every one finished, was judged and analysed
    assert counts["accepted"] == 7 + len(failed)
    assert counts["analysed"] == counts["judged"] == 5
    assert all(event["held"] == "unclear" for event in events if event["event"] == "analysed")
    calibrated = next(event for event in events if event["event"] == "judge_calibrated")
    assert calibrated["usable"]
    assert calibrated["scores"] == {"0": 5.0, "1": 10.0}
    rows = json.loads((run / "ranking.json").read_text())
    assert rows["judge"] == "all"
    assert {row["candidate"] for row in rows["rows"]} == set(range(7))


def test_every_word_is_kept_and_reads_as_a_story(undisturbed_run: tuple[Path, Counter[str]]) -> None:
    run, asked = undisturbed_run
    lines = [json.loads(line) for line in (run / "llm/calls.jsonl").read_text().splitlines()]
    assert Counter(line["role"] for line in lines) == asked
    assert {line["outcome"] for line in lines} == {"ok"}
    mended = next(event["candidate"] for event in read_journal(run) if event["event"] == "repaired")
    shown = subprocess.run(
        [Path(sys.executable).with_name("asiarch-hpc"), "show", str(mended), "--trace", "--run", run],
        capture_output=True,
        text=True,
        env=environment(),
    )
    assert shown.returncode == 0, shown.stderr
    story = [
        "planner",
        "Neighbours matter.",
        "no such chunk",
        "repair",
        "It was wrong.",
        "finished",
        "analyst",
    ]
    places = [shown.stdout.find(words) for words in story]
    assert -1 not in places, shown.stdout
    assert places == sorted(places)


def test_a_head_killed_in_the_middle_asks_nothing_twice(
    undisturbed_run: tuple[Path, Counter[str]], config: Path, llm: ScriptedLlm, tmp_path: Path
) -> None:
    llm.asked.clear()
    with subprocess.Popen(
        command(config, tmp_path / "run"), stdout=subprocess.PIPE, text=True, env=environment()
    ) as head:
        assert head.stdout is not None
        for line in head.stdout:
            if " repaired " in line:
                os.kill(head.pid, signal.SIGKILL)
                break
    run_to_the_end(config, tmp_path / "run")
    assert numbers(tmp_path / "run") == numbers(undisturbed_run[0])
    # what was under way when the head was killed was not kept yet: at most a call for each thread
    assert sum((llm.asked - undisturbed_run[1]).values()) <= 4


def test_a_replay_needs_no_llm_and_writes_the_same_journal(
    undisturbed_run: tuple[Path, Counter[str]], llm: ScriptedLlm, tmp_path: Path
) -> None:
    llm.asked.clear()
    recorded = shutil.copytree(undisturbed_run[0], tmp_path / "elsewhere")
    replay = [Path(sys.executable).with_name("asiarch-hpc"), "run", "--replay", recorded]
    done = subprocess.run(
        [*replay, "--run", tmp_path / "again"],
        capture_output=True,
        text=True,
        timeout=1200,
        env=environment(),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert journal(tmp_path / "again") == journal(recorded)
    assert not llm.asked
