"""The transcript by itself: any text comes back, from any thread, after any tear; what differs is asked again."""

import json
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from asiarch.agents.llm.model import Call
from asiarch.agents.llm.transcript import (
    CALLS,
    Asked,
    RecordedModel,
    Remembering,
    Text,
    Transcript,
    prompt_hash,
)
from asiarch.models.errors import UserError


class Verdict(BaseModel):
    verdict: str


class Points(BaseModel):
    points: int


YES = '{"verdict": "yes"}'


def make_call(
    turn: str = "0", user: str = "Is it new?", candidate: int = 3, answer: Any = Verdict
) -> Call[Any]:
    return Call("novelty", candidate, turn, "Be brief.", user, answer, seed=5, temperature=0.5, max_tokens=64)


def keep(transcript: Transcript, call: Call[Any], answer: str = YES, **changes: Any) -> None:
    """Record one attempt as the client does."""
    values: dict[str, Any] = {
        "attempt": 0, "model": "m", "tokens_in": 11, "tokens_out": 7, "latency_s": 1.25, "repeats": 0,
        "outcome": "ok", "detail": "", "final": True,
    }  # fmt: skip
    asked = Asked(
        role=call.role,
        candidate=call.candidate,
        turn=call.turn,
        prompt=prompt_hash(call.system, call.user),
        seed=call.seed,
        temperature=call.temperature,
        max_tokens=call.max_tokens,
        **{**values, **changes},
    )
    transcript.append(asked, Text(call.system, call.user, answer))


class KeepingModel:
    """Gives one answer, which it keeps, and counts how often it is asked."""

    def __init__(self, transcript: Transcript, answer: str = YES) -> None:
        self.transcript, self.answer = transcript, answer
        self.asked = 0

    def ask(self, call: Call[Any]) -> Any:
        self.asked += 1
        keep(self.transcript, call, self.answer)
        return call.answer.model_validate_json(self.answer)


hostile = st.text(st.characters(codec=None) | st.sampled_from('\n\r\x00\u2028\ud800\udfff"\\'))


@given(said=st.lists(st.tuples(hostile, hostile, hostile), min_size=1, max_size=3))
@settings(max_examples=15, deadline=None)
def test_any_text_comes_back_as_it_was(
    said: list[tuple[str, str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("calls")
    transcript = Transcript(folder)
    for turn, (user, answer, detail) in enumerate(said):
        keep(transcript, make_call(str(turn), user), answer, outcome="invalid", detail=detail)
    for reader in (transcript, Transcript(folder), Transcript(folder, read_only=True)):
        calls = list(reader.calls())
        assert [call.turn for call in calls] == [str(turn) for turn in range(len(said))]
        assert [(reader.texts(call).user, reader.texts(call).answer, call.detail) for call in calls] == said


def test_lines_keep_their_order_and_their_time(tmp_path: Path) -> None:
    assert list(Transcript(tmp_path / "none", read_only=True).calls()) == []
    assert not (tmp_path / "none").exists()
    transcript = Transcript(tmp_path)
    for candidate, turn in ((1, "0"), (2, "0"), (1, "1")):
        keep(transcript, make_call(turn, candidate=candidate))
    calls = list(transcript.calls())
    assert [(call.candidate, call.turn) for call in calls] == [(1, "0"), (2, "0"), (1, "1")]
    assert [call.time for call in calls] == sorted(call.time for call in calls)
    assert all(len(call.time) == len("2026-01-01T00:00:00.000+00:00") for call in calls)


def test_threads_keep_whole_lines_and_their_own_texts(tmp_path: Path) -> None:
    transcript = Transcript(tmp_path)

    def work(number: int) -> None:
        for turn in range(4):
            call = make_call(f"{number}-{turn}", f"{number}" * 5000, candidate=number % 2)
            keep(transcript, call, f"{number}-{turn}")

    threads = [Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    again = Transcript(tmp_path, read_only=True)
    calls = list(again.calls())
    assert sorted(call.turn for call in calls) == sorted(f"{n}-{turn}" for n in range(8) for turn in range(4))
    assert all(again.texts(call).answer == call.turn for call in calls)


@pytest.mark.parametrize("torn", [CALLS, "texts/0003.jsonl"])
def test_a_writer_killed_at_any_byte_loses_its_own_line_alone(tmp_path: Path, torn: str) -> None:
    transcript = Transcript(tmp_path)
    keep(transcript, make_call("0"))
    path, calls = tmp_path / torn, tmp_path / CALLS
    whole, line = path.read_bytes(), calls.read_bytes()
    keep(transcript, make_call("1"))
    more = path.read_bytes()
    for length in range(len(whole), len(more), 37):
        path.write_bytes(more[:length])
        if torn != CALLS:  # a text is written before its line
            calls.write_bytes(line)
        assert [call.turn for call in Transcript(tmp_path, read_only=True).calls()] == ["0"]
        again = Transcript(tmp_path)
        keep(again, make_call("2"), '{"verdict": "no"}')
        assert path.read_bytes().startswith(whole)
        assert [(call.turn, again.texts(call).answer) for call in again.calls()] == [
            ("0", YES),
            ("2", '{"verdict": "no"}'),
        ]


def test_only_what_was_asked_just_so_is_remembered(tmp_path: Path) -> None:
    transcript = Transcript(tmp_path)
    model = KeepingModel(transcript)
    calls = [
        make_call("0"),
        make_call("1"),
        make_call("0", candidate=4),
        make_call("0", user="Is it old?"),
    ]
    for call in calls:
        Remembering(model, transcript).ask(call)
    assert model.asked == 4
    started_again = Transcript(tmp_path)
    never = KeepingModel(started_again)
    for call in calls:
        assert Remembering(never, started_again).ask(call).verdict == "yes"
    assert never.asked == 0


def test_an_answer_that_the_schema_of_now_refuses_is_asked_for_again(tmp_path: Path) -> None:
    transcript = Transcript(tmp_path)
    keep(transcript, make_call())
    with pytest.raises(UserError, match=r"candidate 3, turn 0: .* Points"):
        RecordedModel(tmp_path).ask(make_call(answer=Points))
    model = KeepingModel(transcript, '{"points": 3}')
    for _ in range(2):
        assert Remembering(model, transcript).ask(make_call(answer=Points)).points == 3
    assert model.asked == 1
    assert RecordedModel(tmp_path).ask(make_call(answer=Points)).points == 3


def test_a_call_without_llm_counts_only_until_it_is_answered(tmp_path: Path) -> None:
    transcript = Transcript(tmp_path)
    keep(transcript, make_call(), "", outcome="unavailable", detail="no server")
    assert Remembering(KeepingModel(transcript), transcript).ask(make_call()).verdict == "yes"
    assert RecordedModel(tmp_path).ask(make_call()).verdict == "yes"


@pytest.mark.parametrize("line", ["[1]", '"x"', "null", "{", '{"role": "judge"}', "\udc80"])
def test_a_line_that_is_no_call_is_named(tmp_path: Path, line: str) -> None:
    keep(Transcript(tmp_path), make_call())
    with (tmp_path / CALLS).open("a", errors="surrogateescape") as file:
        file.write(f"{line}\n")
    with pytest.raises(UserError, match=rf"{CALLS}:2: "):
        Transcript(tmp_path)


def test_nothing_but_what_was_asked_and_said_is_kept(tmp_path: Path) -> None:
    keep(Transcript(tmp_path), make_call())
    record = json.loads((tmp_path / CALLS).read_text())
    assert set(record) == {*Asked.__dataclass_fields__}
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["0003.jsonl", CALLS]
