"""What a campaign has cost so far, as Slurm's accounting has it: what was allocated, times how long, each run of a job.

A job that is requeued is billed for every one of its runs; so it is here.
"""

import os
import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from asiarch.hpc.slurm_states import Call, run_command

# runs that Slurm ended before the trial did; their checkpoints save a part of the work, never all
CUT_SHORT: Final = frozenset({"PREEMPTED", "REQUEUED", "NODE_FAIL", "BOOT_FAIL"})


@dataclass(frozen=True)
class Usage:
    """GPU- and CPU-hours, those of running jobs up to now; `cut_short` and `heads` are parts of `gpu_hours`.

    node_failures: how often each node was lost under a trial. Slurm starts such a job again by itself, so nobody else
    sees it.
    """

    gpu_hours: float = 0.0
    cpu_hours: float = 0.0
    cut_short: float = 0.0
    heads: float = 0.0
    node_failures: dict[str, int] = field(default_factory=dict)


def read_usage(prefix: str, heads: Collection[str], since: str, call: Call = run_command) -> Usage | None:
    """The usage of one campaign; None where accounting does not answer.

    Args:
        prefix: what the names of its trials' jobs start with.
        heads: the job ids of its heads.
        since: when it began, ISO 8601 in UTC.
    """
    rows = call(
        [
            *("sacct", "--allocations", "--duplicates", "--noheader", "--parsable2"),
            *(f"--user={os.getuid()}", f"--starttime={_local_time(since)}"),
            "--format=JobID,JobName,State,ElapsedRaw,AllocTRES,NodeList",
        ]
    )
    if rows is None:
        return None
    gpu = cpu = cut_short = of_heads = 0.0
    lost = Counter[str]()
    for row in rows.splitlines():
        cells = row.split("|")
        if len(cells) != 6 or not cells[3].isdecimal():
            continue
        job, name, state, elapsed, allocated, nodes = cells
        is_head = job in heads
        if not (is_head or name.startswith(prefix)):
            continue
        hours = int(elapsed) / 3600
        gpus = hours * _allocated(allocated, "gres/gpu")
        gpu += gpus
        cpu += hours * _allocated(allocated, "cpu")
        of_heads += gpus if is_head else 0.0
        cut_short += gpus if state.split(" ")[0] in CUT_SHORT else 0.0
        if state == "NODE_FAIL" and re.fullmatch(r"[\w.-]+", nodes):  # of several nodes one cannot be named
            lost[nodes] += 1
    return Usage(round(gpu, 4), round(cpu, 4), round(cut_short, 4), round(of_heads, 4), dict(lost))


def _local_time(moment: str) -> str:
    """As sacct takes it: it knows no time zones, and refuses an offset."""
    return datetime.fromisoformat(moment).astimezone().strftime("%Y-%m-%dT%H:%M:%S")


def _allocated(tres: str, kind: str) -> int:
    found = re.search(rf"(?:^|,){re.escape(kind)}=(\d+)(?:,|$)", tres)
    return int(found[1]) if found else 0
