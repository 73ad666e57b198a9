"""A scripted stand-in for an LLM server: OpenAI's protocol, answers chosen by the seed, as a real one's are.

It stands in where a test is about what a campaign does with answers: good, leaking and crashing programs come in known
shares, which no small model would give.
"""

import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PROGRAM = '''\
"""A mix of each token with the one before it."""

import torch
from torch import nn


class ShiftMixer(nn.Module):
    def __init__(self, hidden_size, num_heads, layer_idx=None, **config):
        super().__init__()
        self.value = nn.Linear(hidden_size, hidden_size, bias=False)
        self.out = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs):
        value = self.value(hidden_states)
        before = nn.functional.pad(value, (0, 0, 1, 0))[:, :-1]
        EXTRA
        return self.out(value + SHARE * before)
'''
GOOD = "before = torch.tanh(before)"
LEAKING = "before = before + value.mean(1, keepdim=True)"
# the shape of the tiny campaign's batches, which no check has
CRASHING = "if self.training and hidden_states.shape[:2] == (8, 128): raise RuntimeError('no such chunk')"


def program(extra: str, seed: int) -> str:
    return PROGRAM.replace("EXTRA", extra).replace("SHARE", f"{0.1 + seed % 997 / 1000:.3f}")


class ScriptedLlm:
    """Serves on a free port of this machine until it is closed. `asked` counts the requests by role; `last` is one."""

    def __init__(self, planned: tuple[str, ...]) -> None:
        """`planned`: what planners' programs do beside the shift, drawn by the request's seed."""
        self.planned = planned
        self.asked: Counter[str] = Counter()
        self.last: dict[str, Any] = {}
        llm = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._send({"object": "list", "data": [{"id": "scripted", "object": "model"}]})

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                text = json.dumps(llm.answer(request)) if "response_format" in request else "ok"
                message = {"role": "assistant", "content": text}
                usage = {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30}
                choice = {"index": 0, "finish_reason": "stop", "message": message}
                head = {"id": "x", "object": "chat.completion", "created": 0, "model": "scripted"}
                self._send({**head, "choices": [choice], "usage": usage})

            def _send(self, body: dict[str, Any]) -> None:
                data = json.dumps(body).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.base_url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        self.last = request
        fields = request["response_format"]["json_schema"]["schema"]["properties"]
        seed = int(request["seed"])
        if "motivation" in fields:
            self.asked["planner"] += 1
            extra = self.planned[seed % len(self.planned)]
            words = {
                "motivation": "Neighbours matter.",
                "hypothesis": "The loss falls.",
                "change": "A shift.",
            }
            return {**words, "used": ["c0"], "name": f"shift_{seed % 997}", "program": program(extra, seed)}
        if "cause" in fields:
            self.asked["repair"] += 1
            return {"cause": "It was wrong.", "change": "Now right.", "program": program(GOOD, seed)}
        if "effect" in fields:
            self.asked["analyst"] += 1
            words = {
                "effect": "It mixes neighbours.",
                "lacking": "Long memory.",
                "lesson": "Shifts help little.",
            }
            return {**words, "held": "unclear"}
        if "innovation" in fields:
            self.asked["judge"] += 1
            asked = request["messages"][-1]["content"].partition("The program to judge:")[2]
            points = 9 if "softplus" in asked.partition("A program of score")[0] else 5
            names = ("innovation", "complexity", "correctness", "efficiency")
            return {"reasons": "So it seems.", **dict.fromkeys(names, points)}
        self.asked["novelty"] += 1
        return {"reason": "Another share.", "of": "none", "verdict": "new"}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
