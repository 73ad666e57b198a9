"""Asks vLLM over its OpenAI interface: answers in their schema, repeats what a restart of the server interrupted.

What xgrammar 0.2.8, which enforces the schema, was measured to do: a string with `pattern`, `minLength` or `maxLength`
takes no escape, so no newline, quote or backslash; the lengths let raw control characters in; counts above 128 cost
some 40 ms a token. A plain string takes every escape. So lengths are checked after decoding, where `max_tokens`
bounds the answer, and a pattern is for short words alone.
"""

import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import openai
from pydantic import BaseModel, ValidationError

from asiarch.agents.llm.endpoint import Address, Endpoint
from asiarch.agents.llm.model import Answer, Call, LlmError, Outcome
from asiarch.agents.llm.reading import read_answer
from asiarch.agents.llm.transcript import Asked, Text, Transcript, prompt_hash

ANOTHER_SEED: Final = 1_000_003  # added for the retry
DEATHS: Final = 3  # of the server under one request, the last with no other beside it: that is the cause
TRIES: Final = 9  # to reach a server: with the pauses below, one and a half minutes
LONGEST_REPETITION: Final = 128
# an error page, or JSON of another form: what a proxy says while the server is away
_NO_REPLY: Final = (openai.OpenAIError, AttributeError, LookupError, TypeError, ValueError, RecursionError)
# how servers word it: vLLM 0.32 "maximum context length" and "maximum model length", OpenAI context_length_exceeded
_OVERLONG: Final = re.compile(r"context[ _](length|window)|model length", re.IGNORECASE)
_REPETITION: Final = re.compile(r"\{(\d+)?(?:,(\d+)?)?\}")


@dataclass(frozen=True)
class _Said:
    """What the LLM said in one attempt, and what that is worth."""

    answer: str
    outcome: Literal["ok"] | Outcome
    detail: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    repeats: int = 0
    refused: bool = False  # by the server, which would refuse it again


class VllmModel:
    """The LLM behind an endpoint; every attempt is kept in the transcript.

    Args:
        endpoint: the campaign's server, or one that is there already.
        transcript: where the calls are kept.
        concurrency: calls that are asked at the same time; others wait. A server's `max_num_seqs`.
        request_limit_s: one answer takes no longer.
        sampling: further fields of every request, as vLLM names them: top_p, chat_template_kwargs...
    """

    def __init__(
        self,
        endpoint: Endpoint,
        transcript: Transcript,
        *,
        concurrency: int = 16,
        request_limit_s: float = 1800.0,
        sampling: Mapping[str, Any] | None = None,
    ) -> None:
        self._endpoint, self._transcript = endpoint, transcript
        self._concurrency = concurrency
        self._places = threading.BoundedSemaphore(concurrency)
        self._suspects = threading.Lock()  # held by the one that is asked alone
        self._limit_s = request_limit_s
        self._sampling = dict(sampling or {})

    def ask(self, call: Call[Answer]) -> Answer:
        """The validated answer; asked once more, with another seed, where the first is not valid.

        A question that the server refuses, such as one that is too long for the context, is asked once.

        Raises:
            LlmError: there is none.
            ValueError: the answer's schema cannot be enforced.
        """
        schema = enforceable_schema(call.answer)
        with self._places:
            said = _Said("", "invalid")
            for attempt in (0, 1):
                seed = call.seed + attempt * ANOTHER_SEED
                begun = time.monotonic()
                said, model = self._attempt(call, schema, seed)
                found: Answer | None = None
                if said.outcome == "ok":
                    found, said = _validated(call.answer, said)
                final = attempt == 1 or said.refused or said.outcome in ("ok", "unavailable")
                self._keep(call, attempt, seed, model, said, time.monotonic() - begun, final)
                if found is not None:
                    return found
                if final:
                    break
        assert said.outcome != "ok"
        raise LlmError(said.outcome, said.detail)

    def _attempt(self, call: Call[Any], schema: dict[str, Any], seed: int) -> tuple[_Said, str]:
        """What is said, and the model's name; repeated while the server is away."""
        model, deaths, trouble = "", 0, ""
        for repeats in range(TRIES):
            try:
                with self._alone() if deaths == DEATHS - 1 else nullcontext():
                    address = self._endpoint.wait()
                    model = address.model
                    return self._request(address, call, schema, seed, repeats), model
            except LlmError as error:
                return _Said("", error.outcome, str(error), repeats=repeats), model
            except openai.APITimeoutError:
                trouble = f"no answer within {self._limit_s:.0f} s"
                return _Said("", "unavailable", trouble, repeats=repeats), model
            except (openai.APIConnectionError, openai.InternalServerError, openai.RateLimitError) as error:
                trouble = _one_line(str(error))
            except openai.APIStatusError as error:
                # 400 is about this request; others are about the server or its key
                outcome: Outcome = "unavailable"
                if error.status_code in (400, 422):
                    outcome = "overlong" if _OVERLONG.search(str(error)) else "invalid"
                detail = f"refused: {_one_line(str(error))}"
                return _Said("", outcome, detail, repeats=repeats, refused=True), model
            except _NO_REPLY as error:
                trouble = f"no reply in OpenAI's form ({type(error).__name__})"
            time.sleep(min(0.5 * 2**repeats, 20.0))
            try:
                deaths += self._endpoint.wait().life != address.life
            except LlmError as error:
                return _Said("", error.outcome, str(error), repeats=repeats), model
            if deaths >= DEATHS:
                trouble = f"the server died {deaths} times under this request, at last with no other"
                break
        return _Said("", "unavailable", trouble, repeats=TRIES), model

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No other call is asked meanwhile; for a call that holds a place."""
        self._places.release()  # else two that want all of them would wait for one another
        try:
            with self._suspects:
                for _ in range(self._concurrency):
                    self._places.acquire()
                try:
                    yield
                finally:
                    self._places.release(self._concurrency)
        finally:
            self._places.acquire()

    def _request(
        self, address: Address, call: Call[Any], schema: dict[str, Any], seed: int, repeats: int
    ) -> _Said:
        # a proxy of the environment is not asked for the way to this machine itself
        direct = address.base_url.startswith("http://127.0.0.1:")
        http = openai.DefaultHttpxClient(trust_env=not direct)
        with openai.OpenAI(
            base_url=address.base_url,
            api_key=address.key,
            max_retries=0,
            timeout=self._limit_s,
            http_client=http,
        ) as client:
            completion = client.chat.completions.create(
                model=address.model,
                messages=[{"role": "system", "content": call.system}, {"role": "user", "content": call.user}],
                seed=seed,
                temperature=call.temperature,
                max_tokens=call.max_tokens,
                response_format={
                    "type": "json_schema",
                    "json_schema": {"name": call.answer.__name__, "schema": schema, "strict": True},
                },
                extra_body=self._sampling,
            )
        usage = completion.usage
        tokens = (usage.prompt_tokens, usage.completion_tokens) if usage else (0, 0)
        choice = completion.choices[0]
        answer = choice.message.content or ""
        if choice.finish_reason == "length":
            detail = f"cut off at {call.max_tokens} tokens"
            return _Said(answer, "truncated", detail, *tokens, repeats)
        if str(choice.finish_reason) == "repetition":  # vLLM's own word, of its `repetition_detection`
            return _Said(
                answer, "truncated", f"went in circles; ended after {tokens[1]} tokens", *tokens, repeats
            )
        return _Said(answer, "ok", "", *tokens, repeats)

    def _keep(
        self, call: Call[Any], attempt: int, seed: int, model: str, said: _Said, latency_s: float, final: bool
    ) -> None:
        asked = Asked(
            role=call.role,
            candidate=call.candidate,
            turn=call.turn,
            attempt=attempt,
            model=model,
            prompt=prompt_hash(call.system, call.user),
            seed=seed,
            temperature=call.temperature,
            max_tokens=call.max_tokens,
            tokens_in=said.tokens_in,
            tokens_out=said.tokens_out,
            latency_s=round(latency_s, 3),
            repeats=said.repeats,
            outcome=said.outcome,
            detail=said.detail,
            final=final,
        )
        self._transcript.append(asked, Text(call.system, call.user, said.answer))


def enforceable_schema(answer: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of an answer as xgrammar can enforce it, without the lengths of its strings.

    Raises:
        ValueError: a pattern repeats something more than 128 times.
    """
    return _enforceable(answer.model_json_schema(), answer.__name__)


def _enforceable(node: Any, where: str) -> Any:
    if isinstance(node, list):
        return [_enforceable(item, where) for item in node]
    if not isinstance(node, dict):
        return node
    kept = {name: _enforceable(value, f"{where}.{name}") for name, value in node.items()}
    if node.get("type") == "string":
        kept.pop("maxLength", None)
        kept.pop("minLength", None)
        counts = [int(n) for pair in _REPETITION.findall(str(node.get("pattern", ""))) for n in pair if n]
        if max(counts, default=0) > LONGEST_REPETITION:
            raise ValueError(f"{where}: a pattern may repeat at most {LONGEST_REPETITION} times")
    return kept


def _validated(answer: type[Answer], said: _Said) -> tuple[Answer | None, _Said]:
    try:
        return read_answer(answer, said.answer), said
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "answer"
        detail = f"{where}: {first['msg']}"
    except ValueError as error:
        detail = f"no JSON: {error}"
    return None, replace(said, outcome="invalid", detail=_one_line(detail))


def _one_line(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)[:300]
