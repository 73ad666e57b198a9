"""How often an LLM's programs are valid, before and after repair, written whole or as search-and-replace blocks.

    .venv/bin/python tests/bench/llm_rates.py [--models tiny smollm2] [--requests 30] [--minutes 20] [--out FILE]

Real: vLLM (its CPU build, campaigns/llm-cpu/setup.sh; a folder of weights is taken as a model too), the planner, the
check in the sandbox, the repairs. Candidate n has the same parent, the same cards and the same seeds with both formats,
and both are made before the next one begins. A plan is not judged for its novelty by the LLM; one that equals its
parent counts as a duplicate, and is planned once more at most. Figures: RESULTS.md.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from statistics import fmean

import numpy as np
from scipy.stats import binomtest

from asiarch.agents.cognition import load_cards
from asiarch.agents.llm.client import VllmModel
from asiarch.agents.llm.drafts import Attempt, DraftFailed, Findings, OnlyDuplicates, Refusal
from asiarch.agents.llm.prompts import Prompts
from asiarch.agents.llm.researcher import Context, Researcher
from asiarch.agents.llm.server import Patience, Server
from asiarch.agents.llm.settings import EditFormat, RoleSettings
from asiarch.agents.llm.transcript import Transcript
from asiarch.agents.llm.vllm_command import ServerSettings
from asiarch.agents.novelty import fingerprint
from asiarch.agents.proposer import KnownCandidate
from asiarch.hpc.check import run_check
from asiarch.hpc.config import preset_values
from asiarch.models.baselines import baseline_path
from asiarch.models.check import CheckSettings
from asiarch.results.files import atomic_write_text

SETUP = Path(__file__).parents[2] / "campaigns" / "llm-cpu" / "setup.sh"
PARENTS = ("linear_attention", "gla", "delta_net")
BYTES_A_TOKEN = 4  # the tiny model's tokens are bytes; its weights are random at any length
FORMATS: tuple[EditFormat, ...] = ("whole", "blocks")


@dataclass(frozen=True)
class Made:
    """What became of one candidate. `first` and `last`: why the first and the last answer were refused, or valid."""

    number: int
    before: bool  # valid without a repair
    after: bool
    first: str
    last: str
    calls: int
    tokens_in: int
    tokens_out: int
    seconds: float


class Arm:
    """One model with one format of edits, with a transcript and a folder of its own."""

    def __init__(self, folder: Path, server: Server, edits: EditFormat, options: argparse.Namespace) -> None:
        self.folder, self.edits = folder / edits, edits
        self.transcript = Transcript(self.folder)
        sampling = preset_values("demo")["llm"]["sampling"]
        model = VllmModel(server, self.transcript, concurrency=options.threads, sampling=sampling)
        settings = RoleSettings(
            edits=edits,
            context=options.context,
            program_tokens=options.answer,
            plan_tries=2,
            repair_tries=options.repairs,
            neighbours=0,
        )
        self.researcher = Researcher(model, Prompts.load(), load_cards(), settings)
        self.made: list[Made] = []

    def make(self, number: int) -> Made:
        name = PARENTS[number % len(PARENTS)]
        parent = KnownCandidate(
            0, name, baseline_path(name).read_text(), {}, 0.5, 4.0, "finished", None, True
        )
        rng, seen = np.random.default_rng(number), {fingerprint(parent.program)}
        began = time.monotonic()
        attempts: Sequence[Attempt]
        ended = ""
        try:
            draft = self.researcher.draft(
                number,
                parent,
                (),
                Context(),
                [parent],
                rng,
                seen,
                lambda program: self._check(number, program),
            )
            attempts, after, ended = draft.attempts, draft.outcome == "accepted", draft.ended
        except (DraftFailed, OnlyDuplicates) as error:
            outcome = error.outcome if isinstance(error, DraftFailed) else "duplicate"
            attempts, after, ended = error.attempts, False, outcome
        calls = [call for call in self.transcript.calls() if call.candidate == number]
        first = _why(attempts[0]) if attempts else ended
        made = Made(
            number=number,
            before=first == "valid",
            after=after,
            first=first,
            last=_why(attempts[-1]) if attempts else ended,
            calls=len(calls),
            tokens_in=sum(call.tokens_in for call in calls),
            tokens_out=sum(call.tokens_out for call in calls),
            seconds=time.monotonic() - began,
        )
        self.made.append(made)
        print(json.dumps({"format": self.edits, **asdict(made), "ended": ended}), flush=True)
        return made

    def _check(self, number: int, program: str) -> Findings:
        file = self.folder / f"{number}-{sha256(program.encode()).hexdigest()[:12]}" / "architecture.py"
        atomic_write_text(file, program)
        report = run_check(file, CheckSettings(hidden_size=64, num_heads=2), timeout_s=300)
        return Findings(tuple(Refusal(check.name, check.message) for check in report.refusals))


def _why(attempt: Attempt) -> str:
    return attempt.findings.refusals[0].name if attempt.findings.refusals else "valid"


def measure(name: str, python: Path, weights: Path, options: argparse.Namespace) -> list[str]:
    """The rows of one model's table."""
    folder = Path(tempfile.mkdtemp(prefix=f"llm-rates-{name}-"))
    context = options.context * (BYTES_A_TOKEN if name == "tiny" else 1)
    settings = ServerSettings(weights, python, max_model_len=context, max_num_seqs=options.threads)
    patience = Patience(watch_s=1e6)
    with Server(settings, folder / "server.log", lambda line: print(line, flush=True), patience) as server:
        server.wait()
        arms = [Arm(folder, server, edits, options) for edits in FORMATS]
        began = time.monotonic()

        def both(number: int) -> bool:
            if time.monotonic() - began > 60 * options.minutes:
                return False
            for arm in arms:
                arm.make(number)
            return True

        with ThreadPoolExecutor(options.threads) as pool:
            pairs = sum(pool.map(both, range(options.requests)))
        seconds = time.monotonic() - began
    print(f"{name}: {pairs} pairs in {seconds:.0f} s, records in {folder}", flush=True)
    rows = [_row(name, arm) for arm in arms]
    after = [{made.number: made.after for made in arm.made} for arm in arms]
    better = sum(after[0][n] and not after[1][n] for n in after[0])
    worse = sum(after[1][n] and not after[0][n] for n in after[0])
    p = binomtest(better, better + worse).pvalue if better + worse else 1.0
    rows.append(
        f"{name}: valid after repair whole alone {better}, blocks alone {worse} (McNemar p = {p:.2g})"
    )
    return rows


def _row(name: str, arm: Arm) -> str:
    made, n = arm.made, len(arm.made)
    firsts = ", ".join(f"{count} {why}" for why, count in Counter(one.first for one in made).most_common())
    cells = [
        name,
        arm.edits,
        str(n),
        _rate(sum(one.before for one in made), n),
        _rate(sum(one.after for one in made), n),
        f"{fmean(one.calls for one in made):.1f}",
        f"{fmean(one.tokens_in for one in made):,.0f} + {fmean(one.tokens_out for one in made):,.0f}",
        f"{fmean(one.seconds for one in made):.0f}",
        firsts,
    ]
    return f"| {' | '.join(cells)} |"


def _rate(count: int, n: int) -> str:
    """With its 95% interval (Wilson)."""
    interval = binomtest(count, n).proportion_ci(method="wilson")
    return f"{count}/{n} = {count / n:.0%} [{interval.low:.0%}, {interval.high:.0%}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--models", nargs="+", default=["tiny", "smollm2"], help="names of setup.sh, or folders"
    )
    parser.add_argument("--python", type=Path, help="the interpreter with vLLM, where it is not setup.sh's")
    parser.add_argument("--requests", type=int, default=30)
    parser.add_argument("--minutes", type=float, default=600, help="no pair of a model begins later")
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--answer", type=int, default=1408)
    parser.add_argument("--repairs", type=int, default=1)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--out", type=Path, help="a file for the table")
    options = parser.parse_args()
    table = [
        "| model | format | n | valid before repair | valid after | calls | tokens in + out | seconds | first answer |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    loads = [os.getloadavg()[0]]
    os.environ["VLLM_ALLOW_LONG_MAX_MODEL_LEN"] = "1"  # for the tiny model
    for model in options.models:
        made = subprocess.run(
            [str(SETUP), *([] if Path(model).is_dir() else [model])],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            env={**os.environ, "PYTHON": sys.executable},
        )
        python, *weights = map(Path, made.stdout.split())
        table += measure(Path(model).name, options.python or python, (weights or [Path(model)])[0], options)
        loads.append(os.getloadavg()[0])
    table.append(
        f"load average over a minute, at the start and after each model: {[round(x, 1) for x in loads]}"
    )
    if options.out is not None:
        atomic_write_text(options.out, "\n".join(table) + "\n")
    print("\n".join(table))


if __name__ == "__main__":
    main()
