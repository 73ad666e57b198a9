"""Whether an LLM keeps the cluster's slots filled: candidates an hour, and the slots' idle share, by the LLM's speed.

    .venv/bin/python tests/bench/llm_supply.py [--candidates 72] [--slots 24] [--minutes 10]

Real: the head's loop with its threads for the LLM, every role and prompt, novelty, journal, ranking. Made up: Slurm and
its trials (tests/bench/scale.py), checks (5 s), and the LLM: an answer takes as long as its tokens, whatever else is
asked, up to `llm.parallel` at a time, and is always a new program that the check accepts. Time is simulated: it stands
while anybody computes, and moves on when the head sleeps and all threads wait for the LLM, so it depends on no machine.
All proposals are the LLM's, in deterministic mode, with two thirds as many candidates in flight as there are slots and
three trials each. Figures: RESULTS.md.
"""

import argparse
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Hashable, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from rich.console import Console
from scale import CHECK_S, Clock, MadeUpSlurm, campaign_folder, no_fsync, put_in_place

from asiarch.agents.llm.model import Answer, Call
from asiarch.hpc import background, campaign, checking, research
from asiarch.hpc.head_log import HeadLog
from asiarch.hpc.journal import Journal, read_journal
from asiarch.models.check import CheckReport, CheckResult

sys.path.insert(0, str(Path(__file__).parents[1] / "hpc"))
from scripted_llm import GOOD, PROGRAM

SPEEDS = (100, 30, 10, 3)  # tokens a second of one answer
PARALLEL = (1, 8)
POLL_S = 4.0  # of the head; at the usual second there are four times as many steps to simulate
TOKENS = {"planner": 1500, "novelty": 100, "analyst": 250, "summariser": 250}  # of an answer


class SharedClock(Clock):
    """Simulated time for the head and the LLM's threads; a thread that waits does not keep it from moving on."""

    def __init__(self, workers: int) -> None:
        super().__init__()
        self.workers, self.begun, self.asleep = workers, 0, 0
        self._changed = threading.Condition()

    def now(self) -> float:
        return self._skipped

    def jump(self, seconds: float) -> None:
        """Of the head: let time pass, once every thread that has work waits."""
        with self._changed:
            self._changed.wait_for(lambda: self.asleep == min(self.begun, self.workers))
            self._skipped += seconds
            self._changed.notify_all()

    @contextmanager
    def standing(self) -> Any:
        yield

    def sleep_in_thread(self, seconds: float) -> None:
        with self._changed:
            until = self._skipped + seconds
            self.asleep += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._skipped >= until)
            self.asleep -= 1

    def worked(self, work: Callable[[], Any]) -> Callable[[], Any]:
        """The same work, counted while it lasts."""
        with self._changed:
            self.begun += 1

        def counted() -> Any:
            try:
                return work()
            finally:
                with self._changed:
                    self.begun -= 1
                    self._changed.notify_all()

        return counted


class Writer:
    """The LLM: `speed` tokens a second for each answer."""

    def __init__(self, clock: SharedClock, speed: float) -> None:
        self.clock, self.speed = clock, speed

    def ask(self, call: Call[Answer]) -> Answer:
        self.clock.sleep_in_thread(TOKENS[call.role] / self.speed)
        program = PROGRAM.replace("EXTRA", GOOD).replace("SHARE", repr(call.seed / 2**31))
        words: dict[str, dict[str, Any]] = {
            "planner": {"motivation": "m", "hypothesis": "h", "change": "c", "used": [], "name": "shift"}
            | {"program": program},
            "novelty": {"reason": "r", "of": "none", "verdict": "new"},
            "analyst": {"effect": "e", "held": "unclear", "lacking": "memory", "lesson": "l"},
            "summariser": {"worked": [], "failed": [], "next": "n"},
        }
        return call.answer.model_validate(words[call.role])


def supply(
    folder: Path, candidates: int, slots: int, minutes: float, speed: float, parallel: int
) -> list[str]:
    """A row: candidates an hour and idle share, while there is something left to propose."""
    llm = [
        "proposers={llm: 1.0}",
        "llm.base_url='http://127.0.0.1:9/v1'",
        "llm.model=made-up",
        "llm.context=8192",
        "llm.answer=2048",
        f"llm.parallel={parallel}",
    ]
    config, run = campaign_folder(folder, candidates, slots, "deterministic", *llm)
    clock = SharedClock(parallel)
    slurm = MadeUpSlurm(clock, run, slots, 60 * minutes)
    put_in_place(slurm)

    class Background(background.Background):
        def begin(self, key: Hashable, work: Callable[[], Any]) -> None:
            if not self.has(key):
                super().begin(key, clock.worked(work))

    def check(program: Path, *_: object, report_path: Path, **__: object) -> CheckReport:
        in_head = threading.current_thread() is threading.main_thread()
        (clock.jump if in_head else clock.sleep_in_thread)(CHECK_S)
        report = CheckReport.of(
            str(program), sha256(program.read_bytes()).hexdigest(), CHECK_S, [CheckResult("construct", True)]
        )
        report_path.write_text(report.to_json())
        return report

    campaign.POLL_S = {"slurm": POLL_S}  # type: ignore[misc]
    research.Background = Background  # type: ignore[misc]
    checking.run_check = check  # type: ignore[assignment]
    proposed: list[float] = []
    with no_fsync(), Journal(run.root) as journal, Path(os.devnull).open("w") as nowhere:
        names = {"seeds": [0, 1, 2], "rungs": 1, "config_hash": "", "code_version": ""}
        journal.append("campaign_started", name="supply", **names)
        log = HeadLog(candidates, Console(file=nowhere))
        head = campaign.Head(run, config, journal, log, Writer(clock, speed))
        head._checker._places = threading.Semaphore(parallel + 1)  # who waits there would hold time up
        record = head._record

        def timed(event: str, **fields: Any) -> None:
            record(event, **fields)
            if event == "proposed":
                proposed.append(clock.now())

        head._record = timed  # type: ignore[method-assign]
        assert head.work()
    # not how a campaign begins and ends, when slots are idle whoever proposes
    first, last = proposed[2 * len(proposed) // 5], proposed[-1]
    count = len(proposed) - 1 - 2 * len(proposed) // 5
    busy = sum(max(0.0, min(end, last) - max(begin, first)) for begin, end in slurm.times)
    drafted = sum(
        event["event"] == "proposed" and event["proposer"] == "llm" for event in read_journal(run.root)
    )
    hours = (last - first) / 3600
    return [
        f"{speed:g}",
        f"{sum(TOKENS[role] for role in ('planner', 'novelty')) / speed:.0f}",
        f"{parallel}",
        f"{drafted}",
        f"{count / hours:.1f}",
        f"{1 - busy / (slots * (last - first)):.1%}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--candidates", type=int, default=72)
    parser.add_argument("--slots", type=int, default=24)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--speeds", nargs="+", type=float, default=SPEEDS)
    parser.add_argument("--parallel", nargs="+", type=int, default=PARALLEL)
    given = parser.parse_args()
    titles: Sequence[str] = (
        "tokens/s",
        "s a draft",
        "parallel",
        "drafted",
        "candidates an hour",
        "slots idle",
    )
    print(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}", flush=True)
    for speed in given.speeds:
        for parallel in given.parallel:
            folder = Path(tempfile.mkdtemp(prefix="asiarch-supply-"))
            try:
                row = supply(folder, given.candidates, given.slots, given.minutes, speed, parallel)
            finally:
                shutil.rmtree(folder)
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
