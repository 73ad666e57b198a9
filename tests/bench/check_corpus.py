"""Check every program of tests/models/corpus and write the table of verdicts: tests/bench/CHECKS.md.

    python -P tests/bench/check_corpus.py [NAME ...] [--time] [--write]

Each program is checked as a campaign does it, in a limited child process. `--time` adds the time of whole
checks (child's start and import included) of the baselines. Exit code 1: a verdict is wrong.
"""

import argparse
import sys
import time
from datetime import date
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))

from corpus_files import Entry, entries

from asiarch.hpc.check import run_check
from asiarch.models.baselines import BASELINES, baseline_path
from asiarch.models.check import CheckReport

TABLE = Path(__file__).with_name("CHECKS.md")


def main() -> int:
    """Check, print a line for each program as it is done, and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="programs of the corpus; all when none is given")
    parser.add_argument("--time", action="store_true", help="also time whole checks of the baselines")
    parser.add_argument("--write", action="store_true", help=f"write {TABLE.name}")
    arguments = parser.parse_args()
    chosen = [e for e in entries() if not arguments.names or {e.name, e.path.stem} & set(arguments.names)]
    rows, wrong = [], 0
    for entry in chosen:
        report = run_check(entry.path)
        right = is_right(entry, report)
        wrong += not right
        rows.append(row(entry, report, right))
        print(rows[-1], flush=True)
    kinds = {kind: sum(e.path.parent.name == kind for e in chosen) for kind in ("wrong", "honest")}
    told = f"{kinds['wrong']} wrong and {kinds['honest']} honest programs: {wrong} verdicts are not as they must be."
    print(told)
    timings = [timing(name) for name in BASELINES] if arguments.time else []
    print("\n".join(timings))
    if arguments.write:
        write(told, rows, timings)
    return 1 if wrong else 0


def is_right(entry: Entry, report: CheckReport) -> bool:
    """Whether an honest program is accepted, or a wrong one refused by a check that its docstring names."""
    refused_by = {check.name for check in report.refusals}
    return bool(refused_by & set(entry.refused_by)) if entry.refused_by else report.accepted


def row(entry: Entry, report: CheckReport, right: bool) -> str:
    refused_by = ", ".join(check.name for check in report.refusals) or "accepted"
    return f"| {entry.name} | {entry.text} | {refused_by} | {'' if right else '**not as it must be**'} |"


def timing(name: str) -> str:
    """The seconds of three whole checks of a baseline."""
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        run_check(baseline_path(name))
        seconds.append(time.perf_counter() - started)
    return f"| {name} | " + " | ".join(f"{s:.1f}" for s in seconds) + " |"


def write(told: str, rows: list[str], timings: list[str]) -> None:
    """Write the table; nothing of an older one is kept."""
    lines = [f"# What `check` says of the corpus, {date.today()}", "", told, ""]
    lines += ["| program | what it does | verdict | |", "|---|---|---|---|", *rows, ""]
    if timings:
        lines += [
            "Seconds of a whole check on one core, the child's start and import included, three times:",
            "",
        ]
        lines += ["| program | first | second | third |", "|---|---|---|---|", *timings, ""]
    TABLE.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
