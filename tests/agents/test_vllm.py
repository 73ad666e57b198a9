"""vLLM itself, on the CPU, with random weights: one server for all tests here, started three times in all.

The first run on a machine sets it up, which takes minutes and 3.5 GB of disk (campaigns/llm-cpu/setup.sh).
"""

import http.client
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import psutil
import pytest
from pydantic import BaseModel, Field

from asiarch.agents.llm.client import VllmModel
from asiarch.agents.llm.endpoint import Address
from asiarch.agents.llm.model import Call, LlmError
from asiarch.agents.llm.server import Patience, Server
from asiarch.agents.llm.transcript import Transcript
from asiarch.agents.llm.vllm_command import ServerSettings
from asiarch.hpc.config import load_config

pytestmark = pytest.mark.slow

SETUP = Path(__file__).parents[2] / "campaigns" / "llm-cpu" / "setup.sh"
LIMIT_S = 1200.0  # a start takes half a minute to a minute on an idle machine


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    environment = {**os.environ, "PYTHON": sys.executable}
    made = subprocess.run(
        [str(SETUP), "tiny"], stdout=subprocess.PIPE, text=True, check=True, env=environment
    )
    python, model = map(Path, made.stdout.split())
    settings = ServerSettings(model, python, max_model_len=4096, max_num_seqs=4)
    log_file = tmp_path_factory.mktemp("vllm") / "server.log"
    patience = Patience(start_s=LIMIT_S, token_s=60, watch_s=1e6)  # who looks at it are the tests
    with Server(settings, log_file, lambda line: print(line, flush=True), patience) as server:
        server.wait()
        yield server
        family = psutil.Process().children(recursive=True)
    assert len(family) >= 3  # keeper, server, engine
    assert not [process for process in family if process.is_running()]


def engine() -> psutil.Process:
    (found,) = [p for p in psutil.Process().children(recursive=True) if "EngineCore" in " ".join(p.cmdline())]
    return found


def ask(address: Address, **question: object) -> dict[str, Any]:
    """The answer to a chat. Raises OSError (urllib's errors are such) or HTTPException."""
    body = {
        "model": address.model,
        "messages": [{"role": "user", "content": "Is it new?"}],
        "temperature": 1,
        **question,
    }
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {address.key}"}
    request = urllib.request.Request(
        f"{address.base_url}/chat/completions", json.dumps(body).encode(), headers
    )
    with urllib.request.urlopen(request, timeout=LIMIT_S) as answer:
        return dict(json.load(answer))


def page(address: Address, name: str) -> tuple[int, str]:
    """Status and text of one of the pages that need no key and no engine."""
    url = f"{address.base_url.removesuffix('/v1')}/{name}"
    with urllib.request.urlopen(url, timeout=LIMIT_S) as answer:
        return answer.status, answer.read().decode()


def generated_tokens(address: Address) -> float:
    lines = page(address, "metrics")[1].splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:generation_tokens_total{"))


def test_random_weights_answer_in_a_schema(server: Server) -> None:
    address = server.wait()
    properties = {
        "verdict": {"enum": ["new", "known"]},
        "scores": {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2},
    }
    schema = {"type": "object", "properties": properties, "required": [*properties]}
    structured = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": schema}}
    for seed in range(3):
        reply = ask(address, response_format=structured, max_tokens=3000, seed=seed)
        text = reply["choices"][0]["message"]["content"]
        answer = json.loads(text)
        assert answer["verdict"] in ("new", "known")
        assert [type(score) for score in answer["scores"]] == [int, int]
        assert not set(text) & set(" \n\t")
    assert server.wait() == address  # well, and so left alone


def test_an_answer_that_goes_in_circles_is_ended(server: Server, tmp_path: Path) -> None:
    class Told(BaseModel):
        words: list[Literal["again"]] = Field(min_length=100, max_length=100)  # whatever the weights are

    config = tmp_path / "c.yaml"
    config.write_text("name: c\npreset: demo\nseed: 0\n")
    call = Call("planner", 0, "0", "You plan.", "Plan.", Told, seed=0, temperature=1, max_tokens=2000)
    answers = {"words": ["again"] * 100}
    assert VllmModel(server, Transcript(tmp_path / "free")).ask(call).model_dump() == answers
    model = VllmModel(server, Transcript(tmp_path), sampling=load_config(config).llm.sampling)
    with pytest.raises(LlmError, match="went in circles") as caught:
        model.ask(call)
    assert caught.value.outcome == "truncated"


def test_the_key_is_asked_for_and_on_no_command_line(server: Server) -> None:
    address = server.wait()
    with pytest.raises(urllib.error.HTTPError, match="401"):
        ask(replace(address, key="another"))
    commands = [process.cmdline() for process in psutil.Process().children(recursive=True)]
    assert any("vllm.entrypoints.openai.api_server" in command for command in commands)
    assert address.key not in str(commands)


def test_a_server_whose_engine_is_killed_in_a_request_is_started_again(server: Server) -> None:
    address, starts = server.wait(), server.starts
    before = generated_tokens(address)
    with ThreadPoolExecutor(1) as pool:
        lost = pool.submit(ask, address, max_tokens=3500, ignore_eos=True)
        deadline = time.monotonic() + LIMIT_S
        while generated_tokens(address) < before + 5:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        engine().kill()
        with pytest.raises((OSError, http.client.HTTPException)):
            lost.result(LIMIT_S)
    again = server.wait()
    assert again != address
    assert server.starts > starts
    assert ask(again, max_tokens=3)["usage"]["completion_tokens"] >= 1


@pytest.mark.faults
def test_a_server_whose_engine_hangs_is_started_again(server: Server) -> None:
    address, starts = server.wait(), server.starts
    engine().send_signal(signal.SIGSTOP)
    assert page(address, "health")[0] == 200  # which is why a token is asked for
    again = server.wait()
    assert again != address
    assert server.starts > starts
    assert ask(again, max_tokens=3)["usage"]["completion_tokens"] >= 1
