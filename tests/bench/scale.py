"""How a head bears thousands of trials: a whole campaign on a made-up Slurm, whose trials take no work.

    python tests/bench/scale.py [--candidates 1773] [--slots 48] [--minutes 10] [--mode free_running]

Real: the head's loop, its journal, the grammar's proposals, results files, ranking. Made up: squeue and sacct (0.1 s a
call), trials (their length is log-normal around `--minutes`, sigma 0.2), the checks (5 s each), fsync. Time is the
head's own CPU time, and jumps where it sleeps or waits for Slurm, so the head's slowness costs slots as on a cluster,
whatever else this machine does. A run that is cut short by SIGTERM gives the figures so far.
Figures and their goals: RESULTS.md.
"""

import argparse
import gc
import heapq
import itertools
import json
import os
import random
import resource
import shutil
import sysconfig
import tempfile
import time
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from rich.console import Console

from asiarch.hpc import campaign, checking, collection, slurm_jobs, slurm_states
from asiarch.hpc.cli.main import COLLECT_AFTER
from asiarch.hpc.config import CampaignConfig, freeze, load_config
from asiarch.hpc.data import prepare
from asiarch.hpc.head_log import HeadLog
from asiarch.hpc.journal import Journal
from asiarch.hpc.layout import RunLayout
from asiarch.results.record import FINISHED, LossCurve, TrainCurve, TrialRecord
from asiarch.results.schema import write_trial
from asiarch.results.trial import TaskResult, TrialKey

CAMPAIGN = """
name: scale
preset: demo
seed: 0
data: {train: [%s/json, %s/email, %s/http, %s/asyncio]}
"""
CALL_S, CHECK_S, SPREAD = 0.1, 5.0, 0.2
MIN_JOB_AGE_S = 300.0  # how long squeue knows a job that has ended


def finished_trial(key: TrialKey, loss: float) -> TrialRecord:
    """A trial with a curve of 100 points."""
    step, flat = np.arange(1, 101), np.full(100, 1.0)
    return TrialRecord(
        key=key,
        stage="demo",
        parameters=1000,
        tokens=100_000,
        config_hash="",
        code_version="",
        torch="",
        device="",
        slurm_job_id="",
        started="2026-11-24T00:00:00+00:00",
        elapsed_s=600.0,
        startup_s=10.0,
        training_s=570.0,
        evaluation_s=20.0,
        gpu_hours=1 / 6,
        outcome=FINISHED,
        train=TrainCurve(step, step * 1000, loss + 1 / step, flat, flat, flat, flat, step, flat, flat),
        validation=_point(loss),
        test=_point(loss),
        tasks={"mqar": TaskResult(0.5, 100, 0.05), "s3": TaskResult(0.25, 40, 0.01)},
    )


def loss_of(key: TrialKey) -> float:
    """A candidate's own loss, and a little noise."""
    return random.Random(key.candidate).gauss(4.0, 0.05) + random.Random(f"{key}").gauss(0, 0.01)


def _point(loss: float) -> LossCurve:
    one = np.ones(1)
    return LossCurve(np.array([100_000]), loss * one, 0.01 * one, loss / 3 * one, np.array([16]))


class Clock:
    """Time that goes on while the head works, stands while the simulation does, and jumps where the head sleeps."""

    def __init__(self) -> None:
        self._skipped = 0.0
        self.simulation_cpu_s = 0.0

    def now(self) -> float:
        return time.process_time() + self._skipped

    def jump(self, seconds: float) -> None:
        self._skipped += seconds

    @contextmanager
    def standing(self) -> Any:
        began = time.process_time()
        yield
        spent_s = time.process_time() - began
        self._skipped -= spent_s
        self.simulation_cpu_s += spent_s


class MadeUpSlurm:
    """Slots that trials take in their order; a trial leaves its result when its time is over."""

    def __init__(self, clock: Clock, run: RunLayout, slots: int, mean_s: float) -> None:
        self.clock, self.run, self.mean_s = clock, run, mean_s
        self.times = list[tuple[float, float]]()  # when each trial begins and ends
        self.free, self.waiting, self.running = slots, deque[tuple[str, TrialKey]](), list[Any]()
        self.words: dict[str, str] = {}
        self.ended = deque[tuple[float, str]]()
        self.busy_s, self.calls, self.ids, self.random = (
            0.0,
            Counter[str](),
            itertools.count(1),
            random.Random(0),
        )
        self.began, self.freed = clock.now(), [clock.now()] * slots

    def submit(self, keys: Sequence[TrialKey]) -> list[str]:
        self.advance()
        array = next(self.ids)
        self.calls["sbatch"] += 1
        self.clock.jump(CALL_S)
        jobs = [f"{array}_{index}" for index in range(len(keys))]
        self.waiting.extend(zip(jobs, keys, strict=True))
        self.words |= dict.fromkeys(jobs, "PENDING")
        self.advance()
        return jobs

    def advance(self) -> None:
        """Let happen what should have by now."""
        with self.clock.standing():
            now = self.clock.now()
            while self.running and self.running[0][0] <= now:
                end, job, key = heapq.heappop(self.running)
                self.words[job] = "COMPLETED"
                self.ended.append((end, job))
                self._finish(key)
                self._start(end)
            while self.free and self.waiting:
                self.free -= 1
                self._start(now)

    def _start(self, at: float) -> None:
        if not self.waiting:
            self.free += 1
            return
        job, key = self.waiting.popleft()
        seconds = self.mean_s * self.random.lognormvariate(0, SPREAD)
        self.busy_s += seconds
        self.times.append((at, at + seconds))
        self.words[job] = "RUNNING"
        heapq.heappush(self.running, (at + seconds, job, key))

    def _finish(self, key: TrialKey) -> None:
        write_trial(key.result_path(self.run.root), finished_trial(key, loss_of(key)))

    def __call__(self, command: Sequence[str]) -> str:
        self.calls[command[0]] += 1
        self.clock.jump(CALL_S)
        self.advance()
        if command[0] != "squeue":
            return ""
        while self.ended and self.ended[0][0] < self.clock.now() - MIN_JOB_AGE_S:
            del self.words[self.ended.popleft()[1]]
        return "".join(f"{job}|{word}|None|n1\n" for job, word in self.words.items())


@contextmanager
def no_fsync() -> Any:
    """Do not wait for the disk: what is written is thrown away."""
    real, os.fsync = os.fsync, lambda _: None
    try:
        yield
    finally:
        os.fsync = real


def campaign_folder(
    folder: Path, candidates: int, slots: int, mode: str, *more: str
) -> tuple[CampaignConfig, RunLayout]:
    """The folder of a campaign that has not begun, and its configuration, with `more` settings."""
    path = folder / "scale.yaml"
    path.write_text(CAMPAIGN.replace("%s", sysconfig.get_paths()["stdlib"]))
    settings = [
        f"budget.candidates={candidates - 1}",
        f"search.mode={mode}",
        f"search.in_flight={2 * slots // 3}",
    ]
    settings += ["executor=slurm", f"slurm.max_in_flight={2 * slots}", "evaluation.tasks=[mqar, s3]"]
    settings += ["rungs=[1.0]"]
    config = load_config(path, [*settings, *more])
    run = RunLayout(folder / "run")
    run.root.mkdir()
    run.config.write_text(freeze(config))
    prepare(list(config.data.train), run.dataset(config), tokenizer="bytes", near_duplicates=False, seed=0)
    return config, run


def put_in_place(slurm: MadeUpSlurm) -> None:
    """Let the head meet the made-up Slurm and its clock instead of the real ones."""
    clock = slurm.clock
    times = SimpleNamespace(
        sleep=lambda s: (clock.jump(s), slurm.advance()), monotonic=clock.now, time=clock.now
    )
    for module in (campaign, collection, slurm_jobs, slurm_states):
        module.time = times  # type: ignore[attr-defined]
    slurm_states.run_command = slurm_jobs.run_command = campaign.read_usage = lambda *_: None  # type: ignore[assignment]

    def submit(self: Any, candidate: int, rung: int, seeds: Sequence[int], *_: object) -> list[str]:
        jobs = slurm.submit([TrialKey(candidate, rung, seed) for seed in seeds])
        for seed, job in zip(seeds, jobs, strict=True):
            self.adopt((candidate, rung, seed), job)
        return jobs

    slurm_jobs.SlurmJobs.submit = submit  # type: ignore[method-assign]
    slurm_jobs.SlurmStates = lambda: slurm_states.SlurmStates(slurm)  # type: ignore[assignment, misc]


def simulate(folder: Path, candidates: int, slots: int, minutes: float, mode: str) -> dict[str, float]:
    """Run the campaign, or what of it comes before a SIGTERM; what it took."""
    config, run = campaign_folder(folder, candidates, slots, mode)
    clock = Clock()
    slurm = MadeUpSlurm(clock, run, slots, 60 * minutes)
    put_in_place(slurm)

    def check(*_: object, **__: object) -> Any:
        clock.jump(CHECK_S)
        return SimpleNamespace(accepted=True, seconds=CHECK_S)

    checking.run_check = check  # type: ignore[assignment]
    cpu = time.process_time()
    wall = time.perf_counter()
    with no_fsync(), Journal(run.root) as journal, Path(os.devnull).open("w") as nowhere:
        journal.append(
            "campaign_started", name="scale", seeds=[0, 1, 2], rungs=1, config_hash="", code_version=""
        )
        head = campaign.Head(run, config, journal, HeadLog(candidates, Console(file=nowhere)))
        leave, ended = head._leave, list[float]()

        def timed_leave(reason: str) -> None:
            ended.append(time.process_time() - cpu)
            leave(reason)

        head._leave = timed_leave  # type: ignore[method-assign]
        finished = head.work()
        worked_s = ended[0]
    trials = len(head.state.summaries)
    makespan = clock.now() - slurm.began
    still_to_run_s = sum(max(0.0, end - clock.now()) for end, _, _ in slurm.running)
    return {
        "finished": finished,
        "trials": trials,
        "slot utilisation": (slurm.busy_s - still_to_run_s) / (slots * makespan),
        "simulated hours": makespan / 3600,
        "wall s (simulation included)": time.perf_counter() - wall,
        "head's cpu ms a trial": 1000 * (worked_s - clock.simulation_cpu_s) / trials,
        "of them at the end, for results.h5": 1000 * (time.process_time() - cpu - worked_s) / trials,
        "calls to the controller": sum(slurm.calls.values()),
        "calls a trial": sum(slurm.calls.values()) / trials,
        "memory MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--candidates", type=int, default=1773)
    parser.add_argument("--slots", type=int, default=48)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--mode", default="free_running", choices=["free_running", "deterministic"])
    given = parser.parse_args()
    gc.set_threshold(*COLLECT_AFTER)
    folder = Path(tempfile.mkdtemp(prefix="asiarch-scale-"))
    try:
        figures = simulate(folder, given.candidates, given.slots, given.minutes, given.mode)
        print(json.dumps(figures, indent=1))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
