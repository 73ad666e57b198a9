"""How the baselines come out on the synthetic tasks, at the sizes of the demo preset.

    .venv/bin/python tests/bench/evaluation.py [TASK ...]

Each is trained by a plain PyTorch loop over two seeds. Prints a dated table of accuracy, with the standard error
over sequences of the mean of both seeds, beside chance and the seconds of one training.
"""

import sys
import time
from datetime import date
from typing import get_args

import torch
from plain import train_plainly

from asiarch.hpc.config import Baseline, preset_values
from asiarch.hpc.config_evaluation import EvaluationConfig, TaskName
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

SEEDS, LAYERS, HIDDEN_SIZE, HEADS = (0, 1), 2, 64, 2
SETTINGS = EvaluationConfig.model_validate(preset_values("demo")["evaluation"])


def trained(baseline: Baseline, task: TaskName, seed: int) -> Score:
    """The score of one baseline on one task."""
    sizes = SETTINGS.task(task)
    batches = synthetic_task(task, SETTINGS, 2 * seed)
    size = ModelConfig(batches.vocabulary, LAYERS, HIDDEN_SIZE, HEADS)
    mixer = load_mixer_class(baseline_path(baseline))
    target = reference_parameters(size, load_mixer_class(baseline_path("delta_net")))
    language = LanguageModel(size, mixer, match_ffn_width(size, mixer, target).width, seed)
    model = task_model(task, language, sizes.length, seed)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    rate = cosine(sizes.learning_rate, 0.0, sizes.steps // 10, sizes.steps)
    train_plainly(model, optimizer, batches.__getitem__, rate, range(sizes.steps))
    return accuracy(model, synthetic_task(task, SETTINGS, 2 * seed + 1, scoring=True), batches=8)


def main() -> None:
    tasks: tuple[TaskName, ...] = get_args(TaskName)
    chosen = [task for task in tasks if task in sys.argv[1:] or not sys.argv[1:]]
    baselines: tuple[Baseline, ...] = get_args(Baseline)
    torch.set_num_threads(1)
    print(f"{date.today()}  CPU  torch {torch.__version__}  {LAYERS} layers x {HIDDEN_SIZE}, {HEADS} heads\n")
    print(f"| task | chance | {' | '.join(baselines)} | seconds |\n|---|---|{'---|' * len(baselines)}---|")
    for task in chosen:
        began = time.perf_counter()
        cells = []
        for baseline in baselines:
            scores = [trained(baseline, task, seed) for seed in SEEDS]
            mean = sum(score.score for score in scores) / len(scores)
            error = sum(score.standard_error**2 for score in scores) ** 0.5 / len(scores)
            spread = "/".join(f"{score.score:.2f}" for score in scores)
            cells.append(f"{mean:.3f} +-{error:.3f} ({spread})")
        seconds = (time.perf_counter() - began) / len(SEEDS) / len(baselines)
        chance = synthetic_task(task, SETTINGS, 0).chance
        print(f"| {task} | {chance:.3f} | {' | '.join(cells)} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
