"""The journal: what was written is read back, a torn line is not, and one head holds it at a time."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from asiarch.hpc.journal import Journal, head_is_alive, read_journal
from asiarch.models.errors import UserError


def test_events_are_read_back_in_order(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        written = [journal.append("proposed", candidate=n, name="a\nb é") for n in range(3)]
    assert read_journal(tmp_path) == written
    assert [event["candidate"] for event in written] == [0, 1, 2]


def test_numbers_and_words_come_back_as_they_were_written(tmp_path: Path) -> None:
    values = random.Random(0)
    floats = [values.uniform(0, 10) * 10.0 ** values.randint(-300, 300) for _ in range(2000)]
    with Journal(tmp_path) as journal:
        journal.append("trial_finished", losses=floats, ints=[2**63 - 1, -(2**63)])
        (plain,) = read_journal(tmp_path)
        assert plain["losses"] == floats
        assert plain["ints"] == [2**63 - 1, -(2**63)]
        odd = journal.append("proposed", name="half a pair: \ud800")  # a program may hold it
    assert read_journal(tmp_path) == [plain, odd]


@pytest.mark.parametrize("kept", [0, 1, 10, -2])
def test_a_torn_last_line_is_ignored_and_cut_off(tmp_path: Path, kept: int) -> None:
    with Journal(tmp_path) as journal:
        journal.append("proposed", candidate=0)
        journal.append("proposed", candidate=1)
    path = tmp_path / "journal.jsonl"
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + second[:kept])
    assert [event["candidate"] for event in read_journal(tmp_path)] == [0]
    with Journal(tmp_path) as journal:
        journal.append("proposed", candidate=2)
    assert [event["candidate"] for event in read_journal(tmp_path)] == [0, 2]


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_text('{"event": "proposed"}\n{"event": oops}\n')
    with pytest.raises(UserError, match=r"journal\.jsonl:2: not a journal line"):
        read_journal(tmp_path)


def test_a_second_head_is_refused_and_the_lock_dies_with_its_holder(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from asiarch.hpc.journal import Journal\n"
        "j = Journal(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert head_is_alive(tmp_path)
        with pytest.raises(UserError, match=rf"another head runs this campaign \(pid {holder.pid} "):
            Journal(tmp_path)
    finally:
        holder.kill()
        holder.wait()
    assert not head_is_alive(tmp_path)
    Journal(tmp_path).close()


def test_a_number_that_is_none_is_refused(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal, pytest.raises(ValueError, match="JSON"):
        journal.append("trial_finished", loss=float("nan"))
    assert (tmp_path / "journal.jsonl").read_bytes() == b""


def test_each_line_is_one_json_object(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.append("refused", reason="two\nlines")
    (line,) = (tmp_path / "journal.jsonl").read_text().splitlines()
    assert json.loads(line)["reason"] == "two\nlines"
