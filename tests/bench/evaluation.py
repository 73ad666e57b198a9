"""How the baselines come out on the synthetic tasks, at the sizes of the demo preset.

    .venv/bin/python tests/bench/evaluation.py [TASK ...] [--seeds 2] [--rates 2e-3 6e-3] [--steps N] [--store FILE]

A plain PyTorch loop trains each baseline once for each seed and learning rate. The rate with the best accuracy on a
selection stream is scored on another stream, as a trial does it. Each training is a line of `--store` as soon as it is
done, so that a run which was cut short goes on where it was. Prints a dated table of accuracy, with the standard error
over sequences of the mean of all seeds, beside chance and the seconds of one training.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from statistics import fmean
from typing import get_args

import torch
from plain import train_plainly

from asiarch.hpc.config import Baseline, preset_values
from asiarch.hpc.config_evaluation import EvaluationConfig, TaskConfig, TaskName
from asiarch.hpc.evaluation.synthetic import Score, accuracy, synthetic_task, task_model
from asiarch.hpc.training.learning_rate import cosine
from asiarch.models.baselines import baseline_path
from asiarch.models.contract import load_mixer_class
from asiarch.models.language_model import (
    LanguageModel,
    ModelConfig,
    match_ffn_width,
    reference_parameters,
)

LAYERS, HIDDEN_SIZE, HEADS = 2, 64, 2
SETTINGS = EvaluationConfig.model_validate(preset_values("demo")["evaluation"])
TASKS: tuple[TaskName, ...] = get_args(TaskName)
# as the literature orders them, best first; softmax attention is the upper reference on recall
BASELINES: tuple[Baseline, ...] = (
    "gated_delta_net",
    "delta_net",
    "gla",
    "linear_attention",
    "softmax_attention",
)
STREAMS, BATCHES = 3, 8  # to train on, to choose the rate on, to score on; batches of the latter two


@dataclass(frozen=True)
class Run:
    """One training: `sizes` are the task's, with its steps."""

    task: TaskName
    baseline: Baseline
    seed: int
    rate: float
    sizes: TaskConfig

    @property
    def key(self) -> str:
        return json.dumps(
            [self.task, self.baseline, self.seed, self.rate, self.sizes.model_dump(mode="json")]
        )


@dataclass(frozen=True)
class Trained:
    """What a run gave: accuracy on the selection stream, score on the scoring stream, and what it took."""

    selection: float
    score: Score
    seconds: float


def trained(run: Run) -> Trained:
    """Train and measure one baseline on one task."""
    began = time.perf_counter()
    settings = SETTINGS.model_copy(update={run.task: run.sizes})
    first = STREAMS * run.seed
    batches = synthetic_task(run.task, settings, first)
    size = ModelConfig(batches.vocabulary, LAYERS, HIDDEN_SIZE, HEADS)
    mixer = load_mixer_class(baseline_path(run.baseline))
    target = reference_parameters(size, load_mixer_class(baseline_path("delta_net")))
    language = LanguageModel(size, mixer, match_ffn_width(size, mixer, target).width, run.seed)
    model = task_model(run.task, language, run.sizes.length, run.seed)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    steps = run.sizes.steps
    train_plainly(
        model, optimizer, batches.__getitem__, cosine(run.rate, 0.0, steps // 10, steps), range(steps)
    )
    selection, score = (
        accuracy(model, synthetic_task(run.task, settings, first + stream, scoring=True), BATCHES)
        for stream in (1, 2)
    )
    return Trained(selection.score, score, time.perf_counter() - began)


class Store:
    """The runs that are done, a line each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self._done = {json.dumps(entry["run"]): entry for entry in map(json.loads, lines)}

    def trained(self, run: Run) -> Trained:
        """From the store, else now."""
        if run.key not in self._done:
            entry = {"run": json.loads(run.key), **asdict(trained(run))}
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a") as file:
                file.write(json.dumps(entry) + "\n")
            self._done[run.key] = entry
        entry = self._done[run.key]
        return Trained(entry["selection"], Score(**entry["score"]), entry["seconds"])


def cell(sweeps: Sequence[Sequence[Trained]]) -> str:
    """Mean accuracy over seeds of the best rates; `sweeps` has for each seed what each rate gave."""
    scores = [max(sweep, key=lambda one: one.selection).score for sweep in sweeps]
    error = sum(score.standard_error**2 for score in scores) ** 0.5 / len(scores)
    spread = "/".join(f"{score.score:.2f}" for score in scores)
    return f"{fmean(score.score for score in scores):.3f} +-{error:.3f} ({spread})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("tasks", nargs="*", choices=[[], *TASKS], metavar="TASK", help=", ".join(TASKS))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rates", type=float, nargs="+", help="learning rates (default: the preset's)")
    parser.add_argument("--steps", type=int, help="of one training (default: the preset's)")
    parser.add_argument("--store", type=Path, default=Path("build/bench/evaluation.jsonl"))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    store = Store(chosen.store)
    print(f"{date.today()}  CPU  torch {torch.__version__}  {LAYERS} layers x {HIDDEN_SIZE}, {HEADS} heads\n")
    print(
        f"| task | steps | chance | {' | '.join(BASELINES)} | seconds |\n|---|---|---|{'---|' * len(BASELINES)}---|"
    )
    for task in chosen.tasks or TASKS:
        sizes = SETTINGS.task(task)
        sizes = sizes.model_copy(update={"steps": chosen.steps or sizes.steps})
        rates = chosen.rates or sizes.learning_rates
        cells, seconds = [], []
        for baseline in BASELINES:
            sweeps = [
                [store.trained(Run(task, baseline, seed, rate, sizes)) for rate in rates]
                for seed in range(chosen.seeds)
            ]
            cells.append(cell(sweeps))
            seconds += [one.seconds for sweep in sweeps for one in sweep]
        chance = synthetic_task(task, SETTINGS, 0).chance
        print(
            f"| {task} | {sizes.steps} | {chance:.3f} | {' | '.join(cells)} | {fmean(seconds):.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
