"""Parsing, validation, repeats and records, against a fake server that says what each test wants to hear."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from asiarch.agents.llm.client import ANOTHER_SEED, VllmModel, enforceable_schema
from asiarch.agents.llm.endpoint import Existing
from asiarch.agents.llm.model import Call, LlmError
from asiarch.agents.llm.transcript import CALLS, RecordedModel, Remembering, Transcript
from asiarch.models.errors import UserError


class Verdict(BaseModel):
    verdict: Literal["new", "known"]
    reason: str = Field(max_length=20)


GOOD = '{"verdict":"new","reason":"gate"}'
# an answer, an HTTP status, an answer with its reason to finish, or a status with the server's words
Reply = str | int | tuple[str, str] | tuple[int, str]


class FakeOpenAI:
    """Answers each request for a completion with the next reply; knows no model and enforces nothing."""

    def __init__(self, *replies: Reply) -> None:
        self.replies = list(replies)
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                fake.requests.append(body)
                fake.keys.append(self.headers["Authorization"])
                reply = fake.replies.pop(0)
                if isinstance(reply, int):
                    self.send_error(reply)
                    return
                first, second = (reply, "stop") if isinstance(reply, str) else reply
                if isinstance(first, int):
                    body = {"error": {"message": second, "type": "BadRequestError", "code": first}}
                else:
                    body = fake.completion(first, second)
                said = json.dumps(body).encode()
                self.send_response(first if isinstance(first, int) else 200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    @staticmethod
    def completion(answer: str, finish: str) -> dict[str, Any]:
        message = {"role": "assistant", "content": answer}
        usage = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
        choice = {"index": 0, "finish_reason": finish, "message": message}
        return {
            "id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage
        }  # fmt: skip


@contextmanager
def fake_openai(*replies: Reply) -> Iterator[tuple[FakeOpenAI, Existing]]:
    fake = FakeOpenAI(*replies)
    try:
        yield fake, Existing(f"http://127.0.0.1:{fake.server.server_port}/v1", "m")
    finally:
        fake.server.shutdown()
        fake.server.server_close()


def call(turn: str = "0", user: str = "Is it new?") -> Call[Verdict]:
    return Call("novelty", 7, turn, "You compare.", user, Verdict, seed=5, temperature=0.3, max_tokens=64)


def test_an_answer_is_asked_for_in_its_schema_and_recorded(tmp_path: Path) -> None:
    with fake_openai(GOOD) as (fake, endpoint):
        model = VllmModel(endpoint, Transcript(tmp_path), sampling={"top_k": 20})
        assert model.ask(call()) == Verdict(verdict="new", reason="gate")
    (request,) = fake.requests
    assert [m["content"] for m in request["messages"]] == ["You compare.", "Is it new?"]
    assert request["response_format"]["json_schema"]["schema"] == enforceable_schema(Verdict)
    assert (request["seed"], request["temperature"], request["max_tokens"], request["top_k"]) == (
        5,
        0.3,
        64,
        20,
    )
    line = json.loads((tmp_path / CALLS).read_text())
    assert (line["role"], line["candidate"], line["turn"], line["model"]) == ("novelty", 7, "0", "m")
    assert (line["tokens_in"], line["tokens_out"], line["outcome"], line["seed"]) == (11, 7, "ok", 5)
    assert line["prompt"] == hashlib.sha256(b'["You compare.", "Is it new?"]').hexdigest()
    (asked,) = Transcript(tmp_path, read_only=True).calls()
    assert Transcript(tmp_path).texts(asked).answer == GOOD


@pytest.mark.parametrize(
    "bad",
    [
        '{"verdict":"perhaps","reason":"x"}',
        '{"verdict":"new"}',
        '{"verdict":"new","reason":"longer than twenty letters"}',
        "[" * 100_000,
        "Sure! Here it is:",
    ],
)
def test_what_is_not_valid_is_asked_once_more_with_another_seed(tmp_path: Path, bad: str) -> None:
    with fake_openai(bad, GOOD) as (fake, endpoint):
        assert VllmModel(endpoint, Transcript(tmp_path)).ask(call()).verdict == "new"
    assert [request["seed"] for request in fake.requests] == [5, 5 + ANOTHER_SEED]
    records = list(Transcript(tmp_path).calls())
    assert [(r.attempt, r.outcome, r.final) for r in records] == [(0, "invalid", False), (1, "ok", True)]


def test_no_control_character_comes_through_but_newlines_and_tabs(tmp_path: Path) -> None:
    with fake_openai('{"verdict":"new","reason":"a\\r\\n\\tb\\u0007\\u0085\\ud800 \u007f\u00e9"}') as (
        _,
        endpoint,
    ):
        assert VllmModel(endpoint, Transcript(tmp_path)).ask(call()).reason == "a\n\tb \u00e9"
    assert RecordedModel(tmp_path).ask(call()).reason == "a\n\tb \u00e9"


@pytest.mark.parametrize(
    ("last", "outcome"),
    [
        ("no", "invalid"),
        (('{"verdict":', "length"), "truncated"),
        (('{"verdict":', "repetition"), "truncated"),
    ],
)
def test_two_bad_answers_are_an_error(tmp_path: Path, last: Reply, outcome: str) -> None:
    with fake_openai("no", last) as (fake, endpoint), pytest.raises(LlmError) as caught:
        VllmModel(endpoint, Transcript(tmp_path)).ask(call())
    assert caught.value.outcome == outcome
    assert len(fake.requests) == 2


def test_a_server_that_is_away_is_asked_again_with_the_same_seed(tmp_path: Path) -> None:
    with fake_openai(503, 500, GOOD) as (fake, endpoint):
        assert VllmModel(endpoint, Transcript(tmp_path)).ask(call()).verdict == "new"
    assert [request["seed"] for request in fake.requests] == [5, 5, 5]
    (record,) = Transcript(tmp_path).calls()
    assert (record.attempt, record.repeats) == (0, 2)


# vLLM 0.32's words for a prompt, and for a prompt with its answer, that are too long
TOO_LONG = (
    "This model's maximum context length is 2048 tokens. However, your prompt contains 3000 input tokens",
    "The decoder prompt (length 2049) is longer than the maximum model length of 2048.",
)


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        (400, "invalid"),
        ((400, "Grammar error: unknown keyword"), "invalid"),
        (401, "unavailable"),
        *(((400, words), "overlong") for words in TOO_LONG),
    ],
)
def test_a_refusal_is_not_repeated(tmp_path: Path, reply: Reply, outcome: str) -> None:
    with fake_openai(reply) as (fake, endpoint), pytest.raises(LlmError, match="refused") as caught:
        VllmModel(endpoint, Transcript(tmp_path)).ask(call())
    assert (caught.value.outcome, len(fake.requests)) == (outcome, 1)
    (record,) = Transcript(tmp_path).calls()
    assert (record.outcome, record.final) == (outcome, True)


def test_the_key_comes_from_the_named_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_openai(GOOD) as (fake, endpoint):
        named = Existing(endpoint.base_url, "m", "MY_KEY")
        with pytest.raises(UserError, match="MY_KEY"):
            VllmModel(named, Transcript(tmp_path)).ask(call())
        monkeypatch.setenv("MY_KEY", "s3")
        VllmModel(named, Transcript(tmp_path)).ask(call())
    assert fake.keys == ["Bearer s3"]
    assert "s3" not in (tmp_path / CALLS).read_text()


def test_no_more_calls_run_at_once_than_allowed(tmp_path: Path) -> None:
    most, now, lock = 0, 0, threading.Lock()
    both = threading.Barrier(2)

    class Counting(VllmModel):
        def _request(self, *args: Any) -> Any:
            nonlocal most, now
            with lock:
                now += 1
                most = max(most, now)
            both.wait(60)  # two must meet here, each time
            with lock:
                now -= 1
            return super()._request(*args)

    with fake_openai(*[GOOD] * 6) as (_, endpoint):
        model = Counting(endpoint, Transcript(tmp_path), concurrency=2)
        threads = [threading.Thread(target=model.ask, args=(call(str(i)),)) for i in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    transcript = Transcript(tmp_path)
    records = list(transcript.calls())
    assert most == 2
    assert sorted(record.turn for record in records) == list("012345")
    assert {transcript.texts(record).answer for record in records} == {GOOD}


def test_records_answer_as_the_llm_did(tmp_path: Path) -> None:
    with fake_openai(GOOD, "no", "no") as (_, endpoint):
        model = VllmModel(endpoint, Transcript(tmp_path))
        answer = model.ask(call())
        with pytest.raises(LlmError) as first:
            model.ask(call("1"))
    again = RecordedModel(tmp_path)
    assert again.ask(call()) == answer
    with pytest.raises(LlmError) as second:
        again.ask(call("1"))
    assert (second.value.outcome, str(second.value)) == (first.value.outcome, str(first.value))
    with pytest.raises(UserError, match=r"role novelty, candidate 7, turn 2: it was never asked"):
        again.ask(call("2"))
    with pytest.raises(UserError, match=r"role novelty, candidate 7, turn 0: .* another prompt"):
        again.ask(call(user="Is it good?"))
    with pytest.raises(UserError, match="nothing to replay"):
        RecordedModel(tmp_path / "elsewhere")


def test_a_head_that_was_killed_asks_only_what_has_no_answer(tmp_path: Path) -> None:
    with fake_openai(GOOD, "no", GOOD) as (_, endpoint):
        model = VllmModel(endpoint, Transcript(tmp_path))
        model.ask(call())
        model.ask(call("1"))
    # as if killed between the answer that is not valid and its retry, while the retry's lines were written
    for path in (tmp_path / CALLS, tmp_path / "texts" / "0007.jsonl"):
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(lines[:-1]) + lines[-1][:20])
    with fake_openai(GOOD) as (fake, endpoint):
        transcript = Transcript(tmp_path)
        again = Remembering(VllmModel(endpoint, transcript), transcript)
        assert again.ask(call()) == again.ask(call("1")) == Verdict(verdict="new", reason="gate")
        assert len(fake.requests) == 1
    assert [(record.turn, record.outcome) for record in Transcript(tmp_path).calls()] == [
        ("0", "ok"),
        ("1", "invalid"),
        ("1", "ok"),
    ]
    assert RecordedModel(tmp_path).ask(call("1")).verdict == "new"


def test_no_server_is_remembered_but_asked_again(tmp_path: Path) -> None:
    with fake_openai(401, GOOD) as (_, endpoint):
        transcript = Transcript(tmp_path)
        model = Remembering(VllmModel(endpoint, transcript), transcript)
        with pytest.raises(LlmError):
            model.ask(call())
        with pytest.raises(LlmError) as caught:
            RecordedModel(tmp_path).ask(call())
        assert caught.value.outcome == "unavailable"
        assert model.ask(call()).verdict == "new"


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    with fake_openai(GOOD) as (_, endpoint):
        VllmModel(endpoint, Transcript(tmp_path)).ask(call())
    texts = tmp_path / "texts" / "0007.jsonl"
    texts.write_text(texts.read_text().replace("Is it new?", "Is it old?"))
    with pytest.raises(UserError, match=r"0007\.jsonl: the text at byte 0 is of another call"):
        RecordedModel(tmp_path).ask(call())
    (tmp_path / CALLS).write_text("{}\n")
    with pytest.raises(UserError, match=r"calls\.jsonl:1"):
        Transcript(tmp_path)


def test_lengths_leave_the_schema_and_long_patterns_are_refused() -> None:
    class Word(BaseModel):
        word: str = Field(pattern=r"^[a-z]{1,40}$")
        texts: list[str] = Field(max_length=3)

    schema = enforceable_schema(Verdict)
    assert schema["properties"]["reason"] == {"title": "Reason", "type": "string"}
    assert schema["properties"]["verdict"]["enum"] == ["new", "known"]
    word = enforceable_schema(Word)["properties"]
    assert word["word"]["pattern"] == r"^[a-z]{1,40}$"
    assert word["texts"]["maxItems"] == 3

    class Long(BaseModel):
        text: str = Field(pattern=r"^.{1,200}$")

    with pytest.raises(ValueError, match=r"Long\.properties\.text: .* 128"):
        enforceable_schema(Long)
