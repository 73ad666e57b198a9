"""The client against a fake server that misbehaves: replies that are none, answers of any size, lives that end."""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Barrier, Event, Lock, Thread
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from asiarch.agents.llm import client
from asiarch.agents.llm.client import VllmModel
from asiarch.agents.llm.endpoint import Address
from asiarch.agents.llm.model import Call, LlmError
from asiarch.agents.llm.transcript import RecordedModel, Transcript

DIES = 0  # instead of a status: the connection ends without a reply


class Verdict(BaseModel):
    model_config = ConfigDict(extra="forbid")
    verdict: str


def completion(text: str | None) -> tuple[int, bytes]:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    usage = {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}
    reply = {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [choice],
        "usage": usage,
    }
    return 200, json.dumps(reply).encode()


YES = completion('{"verdict": "yes"}')
Answering = Callable[[int, dict[str, Any]], tuple[int, bytes]]


class FakeServer(ThreadingHTTPServer):
    """Replies to the n-th request as `answering` says."""

    daemon_threads = True

    def __init__(self, answering: Answering) -> None:
        super().__init__(("127.0.0.1", 0), FakeHandler)
        self.answering = answering
        self.seeds: list[int] = []
        self.lock = Lock()
        Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def end(self) -> None:
        self.shutdown()
        self.server_close()


class FakeHandler(BaseHTTPRequestHandler):
    server: FakeServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.seeds.append(body["seed"])
            number = len(self.server.seeds) - 1
        status, reply = self.server.answering(number, body)
        if status == DIES:
            self.close_connection = True
            return
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def serve() -> Iterator[Callable[[Answering], FakeServer]]:
    servers: list[FakeServer] = []

    def start(answering: Answering) -> FakeServer:
        servers.append(FakeServer(answering))
        return servers[-1]

    yield start
    for server in servers:
        server.end()


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "time", SimpleNamespace(monotonic=time.monotonic, sleep=lambda seconds: None))


class Lives:
    """A server's lives, each at its own address; a call that finds one gone gets the next."""

    def __init__(self, *urls: str) -> None:
        self.urls = list(urls)
        self.life = 0

    def next(self) -> None:
        self.life += 1

    def wait(self) -> Address:
        if self.life >= len(self.urls):
            raise LlmError("unavailable", "it does not start any more")
        return Address(self.urls[self.life], "k", "m", self.life)


def make_call(turn: str = "0", user: str = "Is it new?") -> Call[Verdict]:
    return Call("novelty", 1, turn, "Be brief.", user, Verdict, seed=5, temperature=0.5, max_tokens=64)


@pytest.mark.parametrize(
    "broken",
    [(429, b"{}"), (DIES, b""), (200, b"<html>"), (200, b"[1]"), (200, b"{}"), (200, b'{"choices": []}')],
    ids=["429", "dies", "html", "list", "empty", "no-choice"],
)
def test_what_is_no_reply_is_asked_for_again(
    tmp_path: Path, serve: Callable[[Answering], FakeServer], broken: tuple[int, bytes]
) -> None:
    server = serve(lambda number, body: broken if number < 2 else YES)
    model = VllmModel(Lives(server.url), Transcript(tmp_path), request_limit_s=60)
    assert model.ask(make_call()).verdict == "yes"
    assert server.seeds == [5, 5, 5]
    (record,) = Transcript(tmp_path).calls()
    assert (record.repeats, record.outcome) == (2, "ok")


def test_a_server_that_never_replies_is_unavailable(
    tmp_path: Path, serve: Callable[[Answering], FakeServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "TRIES", 3)
    server = serve(lambda number, body: (200, b"<html>"))
    with pytest.raises(LlmError) as raised:
        VllmModel(Lives(server.url), Transcript(tmp_path), request_limit_s=60).ask(make_call())
    assert raised.value.outcome == "unavailable"
    assert server.seeds == [5] * 3


@pytest.mark.parametrize(
    "text",
    [
        '{"verdict":' + "[" * 100_000,
        '{"verdict": 1, "text": "' + "y" * 300_000 + '"}',
        '\ud800{"',
        "",
        None,
    ],
    ids=["deep", "huge", "surrogate", "empty", "none"],
)
def test_a_hostile_answer_is_invalid_and_kept(
    tmp_path: Path, serve: Callable[[Answering], FakeServer], text: str | None
) -> None:
    server = serve(lambda number, body: completion(text))
    with pytest.raises(LlmError) as raised:
        VllmModel(Lives(server.url), Transcript(tmp_path), request_limit_s=60).ask(make_call())
    assert raised.value.outcome == "invalid"
    assert len(str(raised.value)) < 1000
    assert len(server.seeds) == 2
    transcript = Transcript(tmp_path)
    assert [transcript.texts(record).answer for record in transcript.calls()] == [text or ""] * 2
    with pytest.raises(LlmError, match="^" + str(raised.value)[:10]):
        RecordedModel(tmp_path).ask(make_call())


def test_eight_threads_go_on_where_the_server_comes_back(
    tmp_path: Path, serve: Callable[[Answering], FakeServer]
) -> None:
    lives, moved = Lives(), Event()

    def first_life(number: int, body: dict[str, Any]) -> tuple[int, bytes]:
        if number < 4:
            return echo(body)
        if number == 4:
            lives.next()
            moved.set()
        moved.wait(60)
        return DIES, b""

    def echo(body: dict[str, Any]) -> tuple[int, bytes]:
        return completion(json.dumps({"verdict": body["messages"][1]["content"]}))

    lives.urls = [serve(first_life).url, serve(lambda number, body: echo(body)).url]
    model = VllmModel(lives, Transcript(tmp_path), concurrency=8, request_limit_s=60)
    asked = [str(number) for number in range(16)]
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda text: model.ask(make_call(text, text)).verdict, asked))
    assert answers == asked
    records = list(Transcript(tmp_path).calls())
    assert sorted(record.turn for record in records) == sorted(asked)
    assert {record.outcome for record in records} == {"ok"}
    assert 1 <= sum(record.repeats > 0 for record in records) <= 8


def test_a_request_under_which_the_server_dies_each_time_is_given_up(
    tmp_path: Path, serve: Callable[[Answering], FakeServer]
) -> None:
    lives = Lives()

    def die(number: int, body: dict[str, Any]) -> tuple[int, bytes]:
        lives.next()
        return DIES, b""

    lives.urls = [serve(die).url for _ in range(client.DEATHS + 2)]
    with pytest.raises(LlmError, match=f"died {client.DEATHS} times"):
        VllmModel(lives, Transcript(tmp_path), request_limit_s=60).ask(make_call())
    assert lives.life == client.DEATHS


def test_requests_that_were_asked_beside_a_deadly_one_are_answered(
    tmp_path: Path, serve: Callable[[Answering], FakeServer]
) -> None:
    """Eight at once, one of which kills each server; the last death that counts is one that it met alone."""
    lives, together, lock = Lives(), Barrier(8), Lock()
    at_once, most = 0, 0

    def first_lives(number: int, body: dict[str, Any]) -> tuple[int, bytes]:
        if together.wait(60) == 0:
            lives.next()
        together.wait(60)
        return DIES, b""

    def later(number: int, body: dict[str, Any]) -> tuple[int, bytes]:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        life = lives.life
        if body["messages"][1]["content"] == "deadly":
            lives.next()
        Event().wait(0.05)  # in which others would be seen, and would die with it
        with lock:
            at_once -= 1
        return YES if lives.life == life else (DIES, b"")

    first = client.DEATHS - 1
    lives.urls = [serve(first_lives if n < first else later).url for n in range(client.DEATHS + 1)]
    model = VllmModel(lives, Transcript(tmp_path), concurrency=8, request_limit_s=60)

    def ask(number: int) -> str:
        try:
            return model.ask(make_call(str(number), "deadly" if number == 3 else "harmless")).verdict
        except LlmError as error:
            return str(error)

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(ask, range(8)))
    assert f"died {client.DEATHS} times" in answers.pop(3)
    assert answers == ["yes"] * 7
    assert most == 1
    assert model.ask(make_call("after")).verdict == "yes"


def test_a_server_that_does_not_come_back_is_unavailable(
    tmp_path: Path, serve: Callable[[Answering], FakeServer]
) -> None:
    gone = serve(lambda number, body: YES)
    lives = Lives(gone.url)
    model = VllmModel(lives, Transcript(tmp_path), request_limit_s=60)
    assert model.ask(make_call()).verdict == "yes"
    gone.shutdown()
    lives.next()
    with pytest.raises(LlmError, match="does not start any more") as raised:
        model.ask(make_call("1"))
    assert raised.value.outcome == "unavailable"
