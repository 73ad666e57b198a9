"""GPU-hours by hand from made-up rows of sacct: requeued runs, heads, other people's jobs, rows half written."""

import time
from collections.abc import Sequence

import pytest

from asiarch.hpc.accounting import Usage, read_usage
from asiarch.hpc.slurm_states import PendingJob, pending_jobs

BEGAN = "2026-11-24T10:00:00.123+00:00"  # as the journal has it
ROWS = """\
7_0|camp-abc123-0001-r0-t0|PREEMPTED|1800|billing=4,cpu=4,gres/gpu=2,gres/gpu:a100=2,mem=8G,node=1|n1
7_0|camp-abc123-0001-r0-t0|COMPLETED|3600|billing=4,cpu=4,gres/gpu=2,gres/gpu:a100=2,mem=8G,node=1|n2
8_0|camp-abc123-0002-r0-t0|RUNNING|900|cpu=2,gres/gpu=1|n1
9_0|camp-abc123-0003-r0-t0|CANCELLED by 1000|0||
10|asiarch-head|RUNNING|7200|cpu=4,gres/gpu=1,mem=8G|n3
11|asiarch-head|RUNNING|7200|cpu=4,gres/gpu=8|n3
12|camp-def456-0001-r0-t0|COMPLETED|3600|gres/gpu=8|n4
13_0|camp-abc123-0004-r0-t0|NODE_FAIL|0||n2
14_0|camp-abc123-0004-r0-t0|NODE_FAIL|0||n2
15_0|camp-abc123-0004-r0-t0|NODE_FAIL|0||n[1-2]
torn|row
"""


def test_every_run_of_a_job_counts_and_no_other_s() -> None:
    asked: list[Sequence[str]] = []

    def answer(command: Sequence[str]) -> str:
        asked.append(command)
        return ROWS

    usage = read_usage("camp-abc123-", {"10"}, BEGAN, answer)
    # 2 GPUs for half an hour and for an hour, 1 for a quarter, and a head's for two
    assert usage == Usage(
        1 + 2 + 0.25 + 2, 2 + 4 + 0.5 + 8, cut_short=1.0, heads=2.0, node_failures={"n2": 2}
    )
    assert "--duplicates" in asked[0]


def test_sacct_is_asked_in_this_machine_s_time(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Sequence[str]] = []
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        read_usage("a-", set(), BEGAN, lambda command: asked.append(command))
    finally:
        monkeypatch.undo()
        time.tzset()
    assert "--starttime=2026-11-24T05:00:00" in asked[0]


def test_no_answer_is_no_usage() -> None:
    assert read_usage("camp-", set(), BEGAN, lambda _: None) is None


@pytest.mark.parametrize("state", ["PREEMPTED", "REQUEUED", "NODE_FAIL"])
def test_what_slurm_ended_is_cut_short(state: str) -> None:
    usage = read_usage("a-", set(), BEGAN, lambda _: f"1|a-1|{state}|3600|gres/gpu=3|n1")
    assert usage is not None
    assert usage.cut_short == usage.gpu_hours == 3.0


def test_what_waits_and_why() -> None:
    rows = "7_0|camp-1|Priority|2026-11-24T12:00:00\n7_1|camp-1|Resources|N/A\n8|other|Priority|N/A\n"
    assert pending_jobs("camp-", lambda _: rows) == [
        PendingJob("7_0", "Priority", "2026-11-24T12:00:00"),
        PendingJob("7_1", "Resources", ""),
    ]
    assert pending_jobs("camp-", lambda _: None) == []
