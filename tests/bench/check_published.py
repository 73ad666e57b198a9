"""What `check` says of the architectures that ASI-Arch published, unchanged, at the small sizes of the check.

    python -P tests/bench/check_published.py 106.json OUT.jsonl

106.json is `data/106.json` of github.com/GAIR-NLP/ASI-Arch (Apache 2.0), which is not part of this repository. A line
of OUT is one program's verdict; a program that has one is not checked again. Prints a table of the verdicts.
"""

import argparse
import json
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from asiarch.hpc.check import run_check


def main() -> None:
    """Check what has no line yet, then print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("programs", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    done = [json.loads(line) for line in given.out.read_text().splitlines()] if given.out.exists() else []
    with tempfile.TemporaryDirectory() as folder, given.out.open("a") as out:
        known = {verdict["name"] for verdict in done}
        for program in json.loads(given.programs.read_text()):
            if program["name"] in known:
                continue
            path = Path(folder) / f"{program['index']}.py"
            path.write_text(program["program"])
            report = run_check(path)
            refusals = {check.name: check.message for check in report.refusals}
            done.append({"name": program["name"], "seconds": report.seconds, "refusals": refusals})
            out.write(json.dumps(done[-1]) + "\n")
            out.flush()
            print(f"{program['name']}: {', '.join(refusals) or 'accepted'}", flush=True)
    print(table(done))


def table(verdicts: list[dict[str, Any]]) -> str:
    """A row for each set of checks that refused, the most frequent first."""
    by_checks: dict[str, list[str]] = defaultdict(list)
    for verdict in verdicts:
        by_checks[", ".join(verdict["refusals"]) or "accepted"].append(verdict["name"])
    rows = sorted(by_checks.items(), key=lambda item: -len(item[1]))
    lines = [f"| {checks} | {len(names)} | {', '.join(names[:3])} |" for checks, names in rows]
    return "\n".join(["| refused by | programs | such as |", "|---|---|---|", *lines])


if __name__ == "__main__":
    main()
