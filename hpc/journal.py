"""The campaign's journal: append-only, fsynced, one JSON object a line, one writer (the head).

Every state of a campaign is a replay of its journal (`asiarch.hpc.state`). A line counts once it ends in a
newline: a line torn by a crash is cut off by the next writer and ignored by every reader.
"""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson

from asiarch.hpc.locks import is_locked, try_lock
from asiarch.models.errors import UserError

Event = dict[str, Any]
FILE_NAME = "journal.jsonl"


def utc_now() -> str:
    """The time now, ISO 8601 in UTC, to the millisecond."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def read_journal(run_dir: Path) -> list[Event]:
    """All complete events of a campaign, oldest first; an empty list where there is no journal yet.

    Raises:
        UserError: a complete line is not a JSON object, so the file was edited or damaged.
    """
    path = run_dir / FILE_NAME
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    # what follows the last newline is a line still being written, or torn by a crash
    return _parse(data.split(b"\n")[:-1], path, first=1)


class JournalTail:
    """Reads a journal that grows: each call gives what has come since the last one."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / FILE_NAME
        self._offset, self._lines = 0, 0

    def read(self) -> list[Event]:
        """The new complete events, oldest first. Raises UserError as `read_journal` does."""
        with suppress(FileNotFoundError), self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
            lines = data.split(b"\n")[:-1]
            events = _parse(lines, self._path, first=self._lines + 1)
            self._offset += sum(map(len, lines)) + len(lines)
            self._lines += len(lines)
            return events
        return []


def has_events(run_dir: Path) -> bool:
    """Whether a campaign's journal has an event; it is not looked at."""
    try:
        with (run_dir / FILE_NAME).open("rb") as file:
            return file.readline().endswith(b"\n")
    except FileNotFoundError:
        return False


def _parse(lines: list[bytes], path: Path, first: int) -> list[Event]:
    with suppress(ValueError):  # orjson is quicker; it refuses lone surrogates, which json writes
        events = [orjson.loads(line) for line in lines]
        if all(isinstance(event, dict) and "event" in event for event in events):
            return events
    return list(_parse_each(lines, path, first))


def _parse_each(lines: list[bytes], path: Path, first: int) -> Iterator[Event]:
    for number, line in enumerate(lines, start=first):
        try:
            event = json.loads(line)
        except ValueError:
            event = None
        if not isinstance(event, dict) or "event" not in event:
            raise UserError(
                f"{path}:{number}: not a journal line; the file was changed by hand or the disk damaged it: "
                "restore it from a backup, or cut it before this line to go on from there"
            )
        yield event


class Journal:
    """The one writer of a campaign's journal; holding it is holding the campaign.

    Raises:
        UserError: another head holds the campaign.
    """

    def __init__(self, run_dir: Path) -> None:
        self._lock = _lock_campaign(run_dir)
        path = run_dir / FILE_NAME
        self._file = path.open("ab")
        self._cut_torn_line(path)

    def _cut_torn_line(self, path: Path) -> None:
        data = path.read_bytes()
        complete = data.rfind(b"\n") + 1
        if complete < len(data):
            self._file.truncate(complete)
            os.fsync(self._file.fileno())

    def append(self, event: str, **fields: Any) -> Event:
        """Write one event durably and return it as readers will see it."""
        record = {"time": utc_now(), "event": event, **fields}
        line = json.dumps(record, separators=(",", ":"), allow_nan=False)
        self._file.write(line.encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        return json.loads(line)

    def close(self) -> None:
        """Give the campaign up to the next head."""
        self._file.close()
        os.close(self._lock)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _lock_campaign(run_dir: Path) -> int:
    handle = os.open(run_dir / "head.lock", os.O_RDWR | os.O_CREAT, 0o644)
    if not try_lock(handle, patience_s=1.0):
        holder = os.pread(handle, 200, 0).decode(errors="replace").strip() or "unknown"
        os.close(handle)
        raise UserError(
            f"{run_dir}: another head runs this campaign ({holder}); "
            f"watch it with: asiarch-hpc status --run {run_dir}"
        )
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"pid {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    return handle


def head_is_alive(run_dir: Path) -> bool:
    """Whether a head holds the campaign now (read-only; on this machine or a disk with working locks)."""
    return is_locked(run_dir / "head.lock")
