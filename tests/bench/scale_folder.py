"""How the commands that read, and a head that goes on, bear a campaign's folder of 10,000 trials, made at once.

    python tests/bench/scale_folder.py [--candidates 3334]

Figures and their goals: RESULTS.md.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from scale import CHECK_S, campaign_folder, finished_trial, loss_of, no_fsync

from asiarch.hpc.journal import Journal
from asiarch.hpc.layout import RunLayout
from asiarch.hpc.proposals import ProposalStore
from asiarch.hpc.standings import write_standings
from asiarch.hpc.state import CampaignState
from asiarch.results.trial import TrialKey

PROGRAM = str(Path(sys.executable).with_name("asiarch-hpc"))


def make_folder(folder: Path, candidates: int) -> RunLayout:
    """A campaign's folder with three trials a candidate, made at once: journal, programs, proposals, rankings.

    One candidate in 20 has failed, in four ways; the last 16 candidates are under way.
    """
    config, run = campaign_folder(folder, candidates + 1000, 48, "free_running")
    store = ProposalStore(run, config)
    state = CampaignState()
    with Journal(run.root) as journal, no_fsync():

        def write(event: str, **fields: Any) -> None:
            state.apply(journal.append(event, **fields))

        names = {"seeds": [0, 1, 2], "rungs": 1, "config_hash": "", "code_version": ""}
        write("campaign_started", name="scale", **names)
        write("head_started", pid=1, host="n1", slurm_job="1")
        for number in range(candidates):
            baseline = number < len(config.baselines)
            stored = store.make(min(number, len(config.baselines) - 1), (), state)
            assert stored is not None
            if not baseline:
                # as in a campaign: those that had a result, which is not what failed or was under way
                saw = tuple(n for n in range(number - 32) if n % 20 != 7)
                proposal = replace(stored.proposal, proposer="grammar", parent=0, saw=saw)
                store.keep(number, proposal)
            write(
                "proposed",
                candidate=number,
                name=f"{stored.proposal.name}_{number}",
                proposer="baseline" if baseline else "grammar",
                parent=None if baseline else 0,
                edits=[] if baseline else ["swap_decay"],
                fingerprint=f"{number:064d}",
                saw=number,
                baseline=baseline,
            )
            write("accepted", candidate=number, seconds=CHECK_S)
            jobs = [f"{number + 2}_{seed}" for seed in range(3)]
            write("submitted", candidate=number, rung=0, seeds=[0, 1, 2], jobs=jobs)
            for seed in range(3):
                if number < candidates - 16 or baseline:
                    _end_trial(run, TrialKey(number, 0, seed), jobs[seed], write)
    write_standings(run, state)
    return run


def _end_trial(run: RunLayout, key: TrialKey, job: str, write: Callable[..., None]) -> None:
    trial = {"candidate": key.candidate, "rung": key.rung, "seed": key.seed}
    write("trial_started", **trial, host="gpu-017", pid=12345)
    leave_logs(run, key, job)
    if key.candidate % 20 == 7:
        cause = ("out_of_memory", "candidate_code", "diverged", "time_limit")[key.candidate // 20 % 4]
        write("trial_failed", **trial, cause=cause, detail=f"RuntimeError: size {key.candidate} is wrong")
        return
    record = finished_trial(key, loss_of(key))
    seconds = {"elapsed": 600.0, "startup": 10.0, "training": 570.0, "evaluation": 20.0, "gpu_hours": 1 / 6}
    write("trial_finished", **trial, summary=record.summary().to_json(), seconds=seconds)


def leave_logs(run: RunLayout, key: TrialKey, job: str) -> None:
    """What submitit leaves of a job."""
    folder = run.jobs(key.candidate, key.rung)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{job}_0_log.out").write_text("2026-11-24 training step=10/100 loss=4.0\n" * 100)
    (folder / f"{job}_0_log.err").write_text("RuntimeError: size is wrong\n")
    (folder / f"{job.split('_')[0]}_submission.sh").write_text("#!/bin/bash\n")


def command_times(run: Path) -> dict[str, float]:
    """Seconds of commands on a campaign's folder, the best of three, start-up of Python included."""
    found = {}
    for name, arguments in (
        ("python alone", None),
        ("status", ["status"]),
        ("status --json", ["status", "--json"]),
        ("logs --failed", ["logs", "--failed"]),
        ("ranking", ["ranking"]),
    ):
        best, cpu = float("inf"), float("inf")
        for _ in range(3):
            before, began = os.times(), time.perf_counter()
            words = (
                [sys.executable, "-c", ""] if arguments is None else [PROGRAM, *arguments, "--run", str(run)]
            )
            subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
            after = os.times()
            best = min(best, time.perf_counter() - began)
            cpu = min(
                cpu,
                after.children_user + after.children_system - before.children_user - before.children_system,
            )
        found[f"{name} s"], found[f"{name} cpu s"] = best, cpu
    return found


def resume(run: Path) -> dict[str, float]:
    """Seconds from `asiarch-hpc run` to the head's first proposal, and the head's memory; Slurm does not answer."""
    commands = run.parent / "bin"
    commands.mkdir(exist_ok=True)
    for name in ("sbatch", "squeue", "scancel", "scontrol", "sacct"):
        (commands / name).write_text("#!/bin/sh\nexit 1\n")
        (commands / name).chmod(0o755)
    began = time.perf_counter()
    head = subprocess.Popen(
        [PROGRAM, "run", "--run", str(run)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PATH": f"{commands}:/usr/bin:/bin"},
    )
    assert head.stdout is not None
    assert any(" proposed " in line for line in head.stdout)
    took = time.perf_counter() - began
    ticks = Path(f"/proc/{head.pid}/stat").read_text().rpartition(")")[2].split()[11:15]
    cpu = sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")  # its children's too
    head.terminate()
    kilobytes = 0
    while head.poll() is None:
        status = Path(f"/proc/{head.pid}/status").read_text()
        peak = re.search(r"VmHWM:\s+(\d+)", status)  # none once it is a zombie
        kilobytes = max(kilobytes, int(peak[1]) if peak else 0)
        time.sleep(0.02)
    return {"resume s": took, "resume cpu s": cpu, "memory of the head MB": kilobytes / 1024}


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--candidates", type=int, default=3334)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="asiarch-scale-"))
    try:
        run = make_folder(folder, given.candidates)
        figures = {"trials": 3 * given.candidates} | command_times(run.root)
        journal = (run.root / "journal.jsonl").read_bytes()
        resume(run.root)  # the first one copies the code
        # the next is to find what this one found, no program that waits for its check
        (run.root / "journal.jsonl").write_bytes(journal)
        shutil.rmtree(run.candidate(given.candidates))
        print(json.dumps(figures | resume(run.root), indent=1))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
