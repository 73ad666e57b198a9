"""Requests to a vLLM that is killed again and again: how many are answered, and what the kills cost.

    .venv/bin/python tests/bench/llm_soak.py [--requests 200] [--kills 5] [--threads 8]

On the CPU, with random weights (campaigns/llm-cpu/setup.sh). Whenever a further share of the requests is answered, a
process of the server gets SIGKILL: in turn its engine and its HTTP server. Exits with 1 where a request failed.
"""

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import psutil
from pydantic import BaseModel

from asiarch.agents.llm.client import VllmModel
from asiarch.agents.llm.model import Call, LlmError
from asiarch.agents.llm.server import Patience, Server
from asiarch.agents.llm.transcript import Transcript
from asiarch.agents.llm.vllm_command import ServerSettings

SETUP = Path(__file__).parents[2] / "campaigns" / "llm-cpu" / "setup.sh"
PROCESSES = "EngineCore", "vllm.entrypoints"


class Verdict(BaseModel):
    verdict: Literal["new", "known"]
    reason: str


def kill(number: int) -> None:
    name = PROCESSES[number % len(PROCESSES)]
    family = psutil.Process().children(recursive=True)
    (found,) = (p for p in family if name in " ".join(p.cmdline()) and "keeper.py" not in str(p.cmdline()))
    print(f"kill {number + 1} of {found.pid} ({name})", flush=True)
    found.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--threads", type=int, default=8)
    options = parser.parse_args()
    made = subprocess.run([str(SETUP), "tiny"], stdout=subprocess.PIPE, text=True, check=True)
    python, weights = map(Path, made.stdout.split())
    settings = ServerSettings(weights, python, max_model_len=4096, max_num_seqs=options.threads)
    folder = Path(tempfile.mkdtemp(prefix="llm-soak-"))
    milestones = [options.requests * k // (options.kills + 1) for k in range(1, options.kills + 1)]
    outcomes: Counter[str] = Counter()
    counting = threading.Lock()

    def ask(number: int) -> None:
        call = Call("novelty", number, "0", "You compare.", "Is it new?", Verdict, number, 1.0, 3000)
        try:
            model.ask(call)
            outcome = "answered"
        except LlmError as error:
            outcome = f"{error.outcome}: {error}"
        with counting:
            outcomes[outcome] += 1
            if outcomes.total() in milestones:
                kill(milestones.index(outcomes.total()))

    patience = Patience(watch_s=10, restarts=options.kills + 2, window_s=1e6)
    with Server(settings, folder / "server.log", lambda line: print(line, flush=True), patience) as server:
        transcript = Transcript(folder)
        model = VllmModel(server, transcript, concurrency=options.threads)
        server.wait()
        begun = time.monotonic()
        with ThreadPoolExecutor(options.threads) as pool:
            list(pool.map(ask, range(options.requests)))
        seconds = time.monotonic() - begun
        restarts = server.starts - 1
    calls = list(transcript.calls())
    print(
        f"requests={options.requests} answered={outcomes['answered']} kills={options.kills} restarts={restarts}"
    )
    print(f"asked again after a death: {sum(call.repeats > 0 for call in calls)}")
    print(f"seconds={seconds:.0f} tokens={sum(call.tokens_out for call in calls)} records={folder}")
    for outcome, count in outcomes.items():
        print(f"  {count} {outcome}")
    sys.exit(outcomes["answered"] != options.requests)


if __name__ == "__main__":
    main()
