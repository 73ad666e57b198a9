"""The server's command, settings and restarts, with a small server in vLLM's place."""

import itertools
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from asiarch.agents.llm.endpoint import Address
from asiarch.agents.llm.model import LlmError
from asiarch.agents.llm.server import Patience, Server
from asiarch.agents.llm.vllm_command import ServerSettings, check_settings, server_command, server_environment
from asiarch.models.errors import UserError

# Stands for an interpreter with vLLM. What its nth run does is the nth line of the file `lives` beside it, or the last.
FAKE = """#!{python} -I
import http.server, json, os, pathlib, subprocess, sys, time
if sys.argv[1] == "-c":
    print("cpu 0.0")
    sys.exit()
here = pathlib.Path({folder!r})
with (here / "starts").open("a") as file:
    file.write(f"{{os.getpid()}} {{os.getcwd()}}\\n")
runs = len((here / "starts").read_text().splitlines())
lives = (here / "lives").read_text().splitlines()
life = lives[min(runs, len(lives)) - 1]
port = int(sys.argv[sys.argv.index("--port") + 1])
if life == "dies":
    print("ValueError: no memory for the cache")
    print("WARNING 11-27 too few files may be open, which can cause `OSError: too many open files`")
    print("RuntimeError: see root cause above")
    sys.exit(3)
if life == "taken":
    print(f"OSError: [Errno 98] address already in use: 127.0.0.1:{{port}}")
    sys.exit(1)
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
(here / "worker").write_text(str(worker.pid))

class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *words): pass
    def say(self, code, **answer):
        self.send_response(code)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())
    def do_GET(self):
        self.say(200)
    def do_POST(self):
        if self.headers["Authorization"] != "Bearer " + os.environ["VLLM_API_KEY"]:
            return self.say(401)
        if life == "hangs":
            time.sleep(600)
        with (here / "tokens").open("a") as file:
            file.write("1\\n")
        self.say(500 if life == "broken" else 200, usage={{"completion_tokens": 1}})

http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""
QUICK = Patience(start_s=60, token_s=30, watch_s=3600, restarts=3, longest_delay_s=0.1)


def weights(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_text("0")
    return folder


@pytest.fixture
def fake(tmp_path: Path) -> Callable[..., ServerSettings]:
    """Settings with an interpreter whose server does in each life what it is told."""

    def make(*lives: str) -> ServerSettings:
        python = tmp_path / "python"
        python.write_text(FAKE.format(python=sys.executable, folder=str(tmp_path)))
        python.chmod(python.stat().st_mode | stat.S_IXUSR)
        (tmp_path / "lives").write_text("\n".join(lives))
        return ServerSettings(weights(tmp_path / "coder"), python)

    return make


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def wait_until(true: Callable[[], bool], limit_s: float = 120) -> None:
    deadline = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def server_pids(folder: Path) -> list[int]:
    """The processes of the fake's lives, and the last life's worker."""
    lines = (folder / "starts").read_text().splitlines()
    return [int(line.split()[0]) for line in lines] + [int((folder / "worker").read_text())]


def test_command_of_a_server_on_gpus(tmp_path: Path) -> None:
    settings = ServerSettings(
        weights(tmp_path / "coder"),
        Path("/opt/vllm/bin/python"),
        tensor_parallel=8,
        max_model_len=16384,
        max_num_seqs=32,
        gpu_memory_utilization=0.85,
        arguments=("--quantization", "fp8"),
    )
    command = server_command(settings, 8123, cpu=False)
    assert command[:3] == ["/opt/vllm/bin/python", "-m", "vllm.entrypoints.openai.api_server"]
    assert command[-2:] == ["--quantization", "fp8"]
    value = dict(itertools.pairwise(command))
    assert value["--model"] == str(tmp_path / "coder")
    assert (value["--host"], value["--port"]) == ("127.0.0.1", "8123")
    assert (value["--tensor-parallel-size"], value["--max-model-len"]) == ("8", "16384")
    assert value["--max-num-seqs"] == "33"
    assert (value["--gpu-memory-utilization"], value["--dtype"]) == ("0.85", "auto")
    assert json.loads(value["--structured-outputs-config"])["backend"] == "xgrammar"
    assert "--enable-prefix-caching" in command
    assert not {"--enforce-eager", "--no-enable-chunked-prefill"} & set(command)


def test_command_of_a_server_on_a_cpu(tmp_path: Path) -> None:
    command = server_command(ServerSettings(tmp_path), 8123, cpu=True)
    assert command[0] == sys.executable
    assert command[command.index("--dtype") + 1] == "float32"
    assert {"--enforce-eager", "--no-enable-chunked-prefill"} <= set(command)
    assert "--gpu-memory-utilization" not in command


def test_environment_holds_the_key_and_no_secret_of_ours() -> None:
    own = {"PATH": "/bin", "HF_TOKEN": "hf_x", "SSH_AUTH_SOCK": "/s", "CUDA_VISIBLE_DEVICES": "1"}
    own |= {
        "VLLM_LOGGING_LEVEL": "DEBUG",
        "VLLM_API_KEY": "old",
        "PYTHONPATH": "/ours",
        "http_proxy": "http://p",
    }
    environment = server_environment(own, "new", cpu=False)
    assert (
        environment.items()
        >= {
            "VLLM_API_KEY": "new",
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "PYTHONSAFEPATH": "1",
            "CUDA_VISIBLE_DEVICES": "1",
            "VLLM_LOGGING_LEVEL": "DEBUG",
        }.items()
    )
    assert not environment.keys() & {"HF_TOKEN", "SSH_AUTH_SOCK", "PYTHONPATH", "http_proxy"}
    on_cpu = {"VLLM_CPU_KVCACHE_SPACE", "VLLM_CPU_OMP_THREADS_BIND", "OMP_WAIT_POLICY"}
    assert server_environment(own, "new", cpu=True).keys() - environment.keys() == on_cpu
    assert server_environment({"VLLM_CPU_KVCACHE_SPACE": "7"}, "", cpu=True)["VLLM_CPU_KVCACHE_SPACE"] == "7"


def test_settings_that_cannot_work_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"llm\.model: there is no folder .*/none"):
        check_settings(ServerSettings(tmp_path / "none"))
    with pytest.raises(UserError, match=r"llm\.model: .* holds no config\.json"):
        check_settings(ServerSettings(tmp_path))
    model = weights(tmp_path / "coder")
    # this interpreter has no vLLM: it has an environment of its own
    with pytest.raises(UserError, match=r"llm\.python: .* has no vLLM; pip install 'asiarch-hpc\[vllm\]'"):
        check_settings(ServerSettings(model))
    with pytest.raises(UserError, match=r"llm\.python: .*/python cannot be started \(No such file"):
        check_settings(ServerSettings(model, tmp_path / "python"))
    (model / "model.safetensors").write_text("")
    with pytest.raises(UserError, match=r"llm\.model: .*/coder holds no weights \(\*\.safetensors"):
        check_settings(ServerSettings(model))
    with pytest.raises(UserError, match=r"llm\.python"):  # they may come from elsewhere
        check_settings(ServerSettings(model, arguments=("--load-format", "runai_streamer")))
    for text, message in (("{", "cannot be read"), ("[]", "describes no model")):
        (model / "config.json").write_text(text)
        with pytest.raises(UserError, match=rf"llm\.model: .*/config\.json {message}"):
            check_settings(ServerSettings(model))


def test_a_gpu_build_needs_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho gpu 0.32.0\n")
    python.chmod(0o700)
    settings = ServerSettings(weights(tmp_path / "coder"), python)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(UserError, match="built for GPUs and this machine shows none"):
        check_settings(settings)
    (tmp_path / "bin" / "nvidia-smi").write_text("#!/bin/sh\n")
    (tmp_path / "bin" / "nvidia-smi").chmod(0o700)
    assert check_settings(settings) is False


def test_a_server_that_dies_or_is_broken_is_started_again(
    fake: Callable[..., ServerSettings], tmp_path: Path
) -> None:
    said: list[str] = []
    settings = fake("dies", "taken", "broken", "well")
    with Server(settings, tmp_path / "logs" / "server.log", said.append, QUICK) as server:
        address = server.wait()
        assert address.base_url.startswith("http://127.0.0.1:")
        assert address.base_url.endswith("/v1")
        assert (address.model, address.life) == ("coder", 4)
        # each in a folder of its own, which is empty and goes with it
        folders = [Path(line.split()[1]) for line in (tmp_path / "starts").read_text().splitlines()]
        assert len(folders) == len(set(folders)) == server.starts == 4
        assert [folder.exists() for folder in folders] == [False, False, False, True]
        assert not list(folders[-1].iterdir())
        assert server.wait() == address
    causes = [line for line in said if "failed" in line]
    assert "ended with code 3: ValueError: no memory for the cache" in causes[0]
    assert "address already in use" in causes[1]
    assert "500" in causes[2]
    assert len(causes) == 3
    assert all(map(gone, server_pids(tmp_path)))
    assert address.key not in (tmp_path / "logs" / "server.log").read_text() + "".join(said)
    with pytest.raises(LlmError, match="stopped"):
        server.wait()


@pytest.mark.slow  # the keeper gives it ten seconds to end
def test_a_server_that_hangs_is_started_again_unasked(
    fake: Callable[..., ServerSettings], tmp_path: Path
) -> None:
    said: list[str] = []
    patience = Patience(token_s=2, watch_s=0.1, longest_delay_s=0.1)
    with Server(fake("well", "well"), tmp_path / "log", said.append, patience) as server:
        first = server.wait()
        os.kill(server_pids(tmp_path)[0], signal.SIGSTOP)
        wait_until(lambda: server.starts == 2)
        assert server.wait() != first
    assert any("hangs: no token in 2 s" in line for line in said)
    assert all(map(gone, server_pids(tmp_path)))


def test_a_server_that_only_fails_is_given_up(fake: Callable[..., ServerSettings], tmp_path: Path) -> None:
    with Server(fake("dies"), tmp_path / "log", patience=QUICK) as server:
        with pytest.raises(
            LlmError, match=r"failed 4 times: .*ValueError: no memory for the cache"
        ) as caught:
            server.wait()
        assert caught.value.outcome == "unavailable"
        with pytest.raises(LlmError):
            server.wait()
        assert server.starts == 4


def test_a_server_that_was_given_up_is_tried_again_later(
    fake: Callable[..., ServerSettings], tmp_path: Path
) -> None:
    patience = Patience(restarts=0, window_s=0.5, watch_s=3600)
    with Server(fake("dies", "well"), tmp_path / "log", patience=patience) as server:

        def answers() -> bool:
            try:
                server.wait()
            except LlmError:
                return False
            return True

        wait_until(answers)
        assert server.starts == 2


def test_threads_share_one_restart(fake: Callable[..., ServerSettings], tmp_path: Path) -> None:
    with Server(fake("well"), tmp_path / "log", patience=QUICK) as server:
        server.wait()
        os.kill(server_pids(tmp_path)[0], signal.SIGKILL)
        barrier = threading.Barrier(8)
        found: list[Address] = []

        def ask() -> None:
            barrier.wait()
            found.append(server.wait())

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 8
        assert len(set(found)) == 1
        assert server.starts == 2


def test_stop_frees_who_waits(fake: Callable[..., ServerSettings], tmp_path: Path) -> None:
    server = Server(fake("hangs"), tmp_path / "log", patience=Patience())
    server.start()
    errors: list[LlmError] = []

    def ask() -> None:
        try:
            server.wait()
        except LlmError as error:
            errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    worker = tmp_path / "worker"
    wait_until(lambda: worker.exists() and worker.read_text() != "")
    server.stop()
    thread.join()
    assert [str(error) for error in errors] == ["the LLM server was stopped"]
    assert all(map(gone, server_pids(tmp_path)))


def test_nothing_is_left_of_a_server_whose_head_is_killed(
    fake: Callable[..., ServerSettings], tmp_path: Path
) -> None:
    settings = fake("well")
    head = f"""
import sys, time
from pathlib import Path
from asiarch.agents.llm.server import Server, ServerSettings
settings = ServerSettings(Path({str(settings.model)!r}), Path({str(settings.python)!r}))
server = Server(settings, Path({str(tmp_path / "log")!r}))
server.start()
server.wait()
print("ready", flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", head], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.kill()
    wait_until(lambda: all(map(gone, server_pids(tmp_path))))
    (folder,) = {line.split()[1] for line in (tmp_path / "starts").read_text().splitlines()}
    wait_until(lambda: not Path(folder).exists())
