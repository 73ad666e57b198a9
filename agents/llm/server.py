"""vLLM as a child of this process: started, watched, started again where it died or hangs, gone when this process is.

A server that hangs may answer its health page all the same, so that it counts as well only when it generates a token.
One seat in its batch is kept free for that token: a server that is merely busy answers it.
"""

import http.client
import json
import os
import re
import secrets
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from asiarch.agents.llm.endpoint import Address
from asiarch.agents.llm.model import LlmError
from asiarch.agents.llm.text import one_line
from asiarch.agents.llm.vllm_command import (
    HOST,
    ServerSettings,
    check_settings,
    server_command,
    server_environment,
)

KEEPER: Final = Path(__file__).with_name("keeper.py")

_ERROR: Final = re.compile(r"\b\w*(Error|Exception)\b: \S|\berror: \S")
_NO_ERROR: Final = re.compile(r"\b(INFO|WARNING)\b")
_CONSEQUENCE: Final = re.compile(r"root cause above|EngineDeadError|CancelledError")


@dataclass(frozen=True)
class Patience:
    """How long the server is waited for, in seconds, and how often it is started again.

    Args:
        start_s: loading and compiling take no longer.
        token_s: one token takes no longer, whatever else is asked; else the server hangs.
        watch_s: between two looks at a server that is well.
        restarts: failures within `window_s` that are mended; with one more there is no LLM until the window moved on.
        longest_delay_s: bound of the pause before a restart, which doubles with each failure from one second on.
    """

    start_s: float = 1800.0
    token_s: float = 300.0
    watch_s: float = 60.0
    restarts: int = 6
    window_s: float = 1800.0
    longest_delay_s: float = 60.0


class Server:
    """The campaign's own vLLM, on the loopback interface, behind a random key.

    Args:
        settings: what is served, and how.
        log_file: the server's output is appended to it.
        report: told each start and failure in a line; may be called from several threads.
        patience: time limits and restarts.
    """

    def __init__(
        self,
        settings: ServerSettings,
        log_file: Path,
        report: Callable[[str], None] = lambda line: None,
        patience: Patience | None = None,
    ) -> None:
        self.settings, self.patience = settings, patience or Patience()
        self.starts = 0
        self._log_file, self._report = log_file, report
        self._mending = threading.Lock()  # held by the one thread that looks at the server and mends it
        self._exists = threading.Lock()  # held while the process is made or ended
        self._stopping = threading.Event()
        self._life: _Life | None = None
        self._well_at = float("-inf")
        self._failures: deque[float] = deque()
        self._last_failure = ""
        self._watcher = threading.Thread(target=self._watch, name="llm-server", daemon=True)

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def start(self) -> None:
        """Begin to start it, and return at once. Raises UserError where the settings cannot work."""
        self._cpu = check_settings(self.settings)
        self._log_file.parent.mkdir(parents=True, exist_ok=True)
        self._watcher.start()

    def stop(self) -> None:
        """End it with all its processes; whoever waits for it gets an LlmError."""
        self._stopping.set()
        self._end()
        if self._watcher.is_alive():
            self._watcher.join()

    def wait(self) -> Address:
        """Where the server is, once it has generated a token for this call.

        Waits while the server starts; starts it again where it died or hangs. Threads that call it at the same time
        share one look at the server.

        Raises:
            LlmError: "unavailable"; it failed too often of late, or was stopped.
        """
        asked = time.monotonic()
        with self._mending:
            while True:
                life = self._life or self._launch()
                if self._well_at < asked:
                    trouble = self._trouble(life)
                    if trouble is not None:
                        self._end()
                        self._failed(trouble)
                        continue
                    self._well_at = time.monotonic()
                return Address(f"{life.url}/v1", life.key, self.settings.model.name, self.starts)

    def _watch(self) -> None:
        """See a failure before anyone asks: those who wait for an answer of a server that hangs do not ask."""
        while not self._stopping.is_set():
            with suppress(LlmError):
                self.wait()
            self._stopping.wait(self.patience.watch_s)

    def _launch(self) -> "_Life":
        """Start it, after a pause that grows with the failures of late. Raises LlmError after too many of them."""
        while True:
            now = time.monotonic()
            while self._failures and now - self._failures[0] > self.patience.window_s:
                self._failures.popleft()
            count = len(self._failures)
            if count > self.patience.restarts:
                raise LlmError("unavailable", f"the LLM server failed {count} times: {self._last_failure}")
            if count:
                self._stopping.wait(min(2.0 ** (count - 1), self.patience.longest_delay_s))
            with self._exists:
                if self._stopping.is_set():
                    raise LlmError("unavailable", "the LLM server was stopped")
                try:
                    self._life = _Life(self.settings, self._cpu, self._log_file)
                except OSError as error:
                    self._failed(f"it cannot be started: {error}")
                    continue
            self.starts += 1
            self._report(f"llm server started start={self.starts} model={self.settings.model}")
            return self._life

    def _trouble(self, life: "_Life") -> str | None:
        """Wait for a token; None once it is there, else why there is none."""
        deadline = time.monotonic() + self.patience.start_s
        while not life.answered:
            if (death := life.death()) is not None:
                return death
            if time.monotonic() > deadline:
                return f"it did not start in {self.patience.start_s:.0f} s: {life.telling_line()}"
            with suppress(OSError, http.client.HTTPException):
                life.get("/health", limit_s=10)
                break
            self._stopping.wait(0.5)
        try:
            life.generate(self.patience.token_s)
        except TimeoutError:
            return life.death() or f"it hangs: no token in {self.patience.token_s:.0f} s"
        except (OSError, http.client.HTTPException, ValueError) as error:
            return life.death() or f"it gives no token: {error!r}: {life.telling_line()}"
        if not life.answered:
            self._report(f"llm server ready start={self.starts}")
        life.answered = True
        return None

    def _failed(self, why: str) -> None:
        if not self._stopping.is_set():
            self._failures.append(time.monotonic())
            self._last_failure = f"{one_line(why)} (log: {self._log_file})"
            self._report(f"llm server failed start={self.starts} cause={self._last_failure}")

    def _end(self) -> None:
        with self._exists:
            if self._life is not None:
                self._life.end()
            self._life = None


class _Life:
    """One run of the server's process. Raises OSError where it cannot be started."""

    def __init__(self, settings: ServerSettings, cpu: bool, log_file: Path) -> None:
        self.key = secrets.token_urlsafe(32)
        self.answered = False
        self._model = settings.model.name
        self._log_file = log_file
        self._log_start = log_file.stat().st_size if log_file.exists() else 0
        with socket.socket() as free:  # another process may take it meanwhile; then this life is short
            free.bind((HOST, 0))
            port = free.getsockname()[1]
        self.url = f"http://{HOST}:{port}"
        with log_file.open("ab") as log:
            self._keeper = subprocess.Popen(
                [sys.executable, "-I", str(KEEPER), str(os.getpid()), *server_command(settings, port, cpu)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=server_environment(os.environ, self.key, cpu),
                start_new_session=True,  # Ctrl-C is for the head, which ends the server in its turn
            )

    def death(self) -> str | None:
        """What it died of; None while it lives."""
        code = self._keeper.poll()
        return None if code is None else f"it ended with code {code}: {self.telling_line()}"

    def end(self) -> None:
        if self._keeper.poll() is None:
            self._keeper.terminate()
            self._keeper.wait()

    def generate(self, limit_s: float) -> None:
        """Have one token generated. Raises OSError (TimeoutError), HTTPException, ValueError."""
        question = {"model": self._model, "prompt": "1", "max_tokens": 1, "temperature": 0}
        answer = json.loads(self.get("/v1/completions", limit_s, json.dumps(question).encode()))
        if not isinstance(answer, dict) or answer.get("usage", {}).get("completion_tokens") != 1:
            raise ValueError("the answer holds no token")

    def get(self, path: str, limit_s: float, body: bytes | None = None) -> bytes:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.key}"}
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(urllib.request.Request(self.url + path, body, headers), timeout=limit_s) as answer:
            return bytes(answer.read())

    def telling_line(self) -> str:
        """The line of this life's log that says best what went wrong."""
        try:
            with self._log_file.open("rb") as file:
                file.seek(max(self._log_start, self._log_file.stat().st_size - 200_000))
                lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
        except OSError as error:
            return f"its log cannot be read: {error}"
        errors = [line for line in lines if _ERROR.search(line) and not _NO_ERROR.search(line)]
        causes = [line for line in errors if not _CONSEQUENCE.search(line)]
        return (causes or errors or lines or ["it said nothing"])[-1].strip()
