"""All that was asked of the LLM and answered: kept, and answered from again.

    calls.jsonl        a line each time that the LLM was asked: who, about whom, parameters, tokens, seconds, outcome
    texts/0007.jsonl   for each candidate, what was said: a line for each of its lines in calls.jsonl

A call that is retried has two lines in either. What follows a file's last newline was torn by a crash, and is cut off.
"""

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final, Literal

from asiarch.agents.llm.model import Answer, Call, LlmError, Model, Outcome
from asiarch.agents.llm.reading import read_answer
from asiarch.models.errors import UserError

CALLS: Final = "calls.jsonl"
Key = tuple[str, int, str]  # role, candidate, turn


@dataclass(frozen=True)
class Asked:
    """One line of calls.jsonl."""

    role: str
    candidate: int
    turn: str
    attempt: int  # 0, or 1 for the retry
    model: str
    prompt: str  # sha256 of system and user text, as `prompt_hash` takes it
    seed: int
    temperature: float
    max_tokens: int
    tokens_in: int
    tokens_out: int
    latency_s: float  # from asking to the answer, repeats included
    repeats: int  # how often it was asked again because the server was away
    outcome: Literal["ok"] | Outcome
    detail: str  # why not "ok"
    final: bool  # no retry follows
    time: str = ""  # ISO 8601, UTC, when it was answered
    text: int = -1  # where in its candidate's file of texts its line begins, in bytes

    @property
    def key(self) -> Key:
        return self.role, self.candidate, self.turn


@dataclass(frozen=True)
class Text:
    """What was said in one attempt of a call."""

    system: str
    user: str
    answer: str


def prompt_hash(system: str, user: str) -> str:
    """The sha256, in hexadecimal digits, of the JSON list of the two."""
    return hashlib.sha256(json.dumps([system, user]).encode()).hexdigest()


class Transcript:
    """The records in a folder, written by one process; threads may write and read at the same time.

    Raises:
        UserError: a line of calls.jsonl is not one of ours.
    """

    def __init__(self, folder: Path, *, read_only: bool = False) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._final: dict[
            Key, dict[str, Asked]
        ] = {}  # by key, then by the prompt's hash; the last one counts
        if not read_only:
            (folder / "texts").mkdir(parents=True, exist_ok=True)
            _cut_torn_line(folder / CALLS)
        for asked in self.calls():
            self._learn(asked)

    def calls(self) -> Iterator[Asked]:
        """Every line, oldest first."""
        path = self.folder / CALLS
        try:
            lines = path.read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return
        for number, line in enumerate(lines, start=1):
            try:
                found = json.loads(line)
                yield Asked(**{field.name: found[field.name] for field in fields(Asked)})
            except (ValueError, TypeError, KeyError):
                raise UserError(
                    f"{path}:{number}: not a record of a call; restore the file from a backup"
                ) from None

    def texts(self, asked: Asked) -> Text:
        """What was said. Raises UserError where the texts do not belong to the record."""
        path = self._path(asked.candidate)
        try:
            with path.open("rb") as file:
                file.seek(asked.text)
                found = json.loads(file.readline())
            text = Text(found["system"], found["user"], found["answer"])
        except (OSError, ValueError, TypeError, KeyError):
            raise UserError(
                f"{path}: no text at byte {asked.text}, which {CALLS} names; restore the file"
            ) from None
        if prompt_hash(text.system, text.user) != asked.prompt:
            raise UserError(f"{path}: the text at byte {asked.text} is of another call; restore the file")
        return text

    def append(self, asked: Asked, text: Text) -> None:
        """Write one attempt durably: its text, then its line."""
        with self._lock:
            path = self._path(asked.candidate)
            said = {"role": asked.role, "turn": asked.turn, "attempt": asked.attempt, **asdict(text)}
            # a text torn by a crash, or a full disk, has no line in calls.jsonl, so that it may be cut off
            _cut_torn_line(path)
            _cut_torn_line(self.folder / CALLS)
            begin = _append(path, said)
            now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
            record = Asked(**{**asdict(asked), "time": now, "text": begin})
            _append(self.folder / CALLS, asdict(record))
            self._learn(record)

    def last_words(self, call: Call[Any]) -> Asked | None:
        """The attempt that ended this call, or None where it was never asked with this prompt."""
        with self._lock:
            found = self._final.get((call.role, call.candidate, call.turn), {})
            return found.get(prompt_hash(call.system, call.user))

    def was_asked(self, call: Call[Any]) -> bool:
        """Whether this call was asked, with whatever prompt."""
        with self._lock:
            return (call.role, call.candidate, call.turn) in self._final

    def _learn(self, asked: Asked) -> None:
        if asked.final:
            self._final.setdefault(asked.key, {})[asked.prompt] = asked

    def _path(self, candidate: int) -> Path:
        return self.folder / "texts" / f"{candidate:04d}.jsonl"


class Remembering:
    """Asks a model only what the transcript has no answer to: for a head that was killed and started again.

    What failed because there was no server is asked again; a failure of the LLM stays one.
    """

    def __init__(self, model: Model, transcript: Transcript) -> None:
        self._model, self._transcript = model, transcript

    def ask(self, call: Call[Answer]) -> Answer:
        asked = self._transcript.last_words(call)
        if asked is None or asked.outcome == "unavailable":
            return self._model.ask(call)
        try:
            return _answer_again(self._transcript, asked, call)
        except ValueError:  # of an older version of the role
            return self._model.ask(call)


class RecordedModel:
    """Answers from the records alone, errors included: a campaign again, without the LLM.

    Args:
        folder: where the transcript is.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / CALLS).is_file():
            raise UserError(f"{folder}: no {CALLS}; there is nothing to replay")
        self._transcript = Transcript(folder, read_only=True)

    def ask(self, call: Call[Answer]) -> Answer:
        """Raises UserError where the records have no such call, or one with another prompt."""
        name = f"role {call.role}, candidate {call.candidate}, turn {call.turn}"
        asked = self._transcript.last_words(call)
        if asked is None:
            if self._transcript.was_asked(call):
                raise UserError(
                    f"{self._transcript.folder}: {name}: it was asked with another prompt then; replay with "
                    "the code and the configuration of the campaign"
                )
            raise UserError(f"{self._transcript.folder}: {name}: it was never asked")
        try:
            return _answer_again(self._transcript, asked, call)
        except ValueError:
            raise UserError(
                f"{self._transcript.folder}: {name}: the recorded answer is not one of this version's "
                f"{call.answer.__name__}; replay with the code of the campaign"
            ) from None


def _answer_again(transcript: Transcript, asked: Asked, call: Call[Answer]) -> Answer:
    if asked.outcome != "ok":
        raise LlmError(asked.outcome, asked.detail)
    return read_answer(call.answer, transcript.texts(asked).answer)


def _append(path: Path, record: dict[str, Any]) -> int:
    """Add a line durably; where it begins, in bytes."""
    # lone surrogates are escaped, as all that is not ASCII
    line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
    with path.open("ab") as file:
        begin = file.tell()
        file.write(line)
        file.flush()
        os.fsync(file.fileno())
    return begin


def _cut_torn_line(path: Path) -> None:
    try:
        with path.open("rb+") as file:
            size = file.seek(0, os.SEEK_END)
            if size == 0:
                return
            file.seek(size - 1)
            if file.read(1) != b"\n":
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
                os.fsync(file.fileno())
    except FileNotFoundError:
        return
