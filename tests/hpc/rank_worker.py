"""One rank of a small training, run as a process of its own by test_ranks: follows a plan, leaves its numbers.

python rank_worker.py RANK WORLD PLAN.json
The plan is a list of trainings: {folder, stage, precision, optimizer, until, stop_at, die_at, out, dropout}.
"""

import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from asiarch.hpc.config import TrainingConfig, load_config
from asiarch.hpc.training.checkpoints import CheckpointFolder
from asiarch.hpc.training.learning_rate import cosine
from asiarch.hpc.training.process_group import is_lost_rank, process_group
from asiarch.hpc.training.ranks import Meeting, Ranks
from asiarch.hpc.training.trainer import Progress, RankShare, Trainer

LOST_RANK = 42


class Batches:
    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        inputs = np.random.default_rng(step).integers(0, 32, (8, 16))
        return inputs, (inputs * 5 + 3) % 32


class Model(torch.nn.Module):
    """Has a parameter that is never used, a buffer that training changes, and dropout where asked."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.table = torch.nn.Parameter(0.3 * torch.randn(32, 24, generator=generator))
        self.mix = torch.nn.Parameter(0.3 * torch.randn(24, 32, generator=generator))
        self.gain = torch.nn.Parameter(torch.ones(24))
        # partitions of two and four ranks cut through these
        self.blocks = torch.nn.ModuleList(
            torch.nn.Linear(*size, bias=False) for size in ((24, 40), (40, 24), (24, 24))
        )
        with torch.no_grad():
            for block in self.blocks:
                block.weight.normal_(std=0.1, generator=generator)
        self.unused = torch.nn.Parameter(torch.ones(3))
        self.seen: torch.Tensor
        self.register_buffer("seen", torch.zeros(()))
        self.dropout = dropout

    def forward(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen += 1
        hidden = torch.nn.functional.silu(self.table[inputs] * self.gain)
        widen, narrow, last = self.blocks
        hidden = last(hidden + narrow(widen(hidden)))
        hidden = torch.nn.functional.dropout(hidden, self.dropout, self.training)
        return torch.nn.functional.cross_entropy((hidden @ self.mix).float().flatten(0, 1), targets.flatten())


def train(plan: dict[str, Any], config: TrainingConfig, ranks: Ranks) -> None:
    config = config.model_copy(
        update={
            "zero_stage": plan["stage"],
            "precision": plan.get("precision", "fp32"),
            "optimizer": plan.get("optimizer", "adamw"),
            "log_every": 4,
            "micro_batch_tokens": plan.get("micro_batch_tokens", 1024),
            "checkpoint_every": plan.get("checkpoint_every", 3600),
        }
    )
    trainer = Trainer(
        Model(plan.get("dropout", 0.0)),
        RankShare(Batches(), ranks),
        cosine(0.02, 0.1, 4, 24),
        config,
        CheckpointFolder(Path(plan["folder"])),
        5,
        ranks,
    )
    step_alone = trainer._step

    def step(number: int, with_norm: bool) -> float:
        if number == plan.get("die_at") and ranks.rank == ranks.world - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return step_alone(number, with_norm)

    trainer._step = step  # type: ignore[method-assign]
    # one rank alone hears the signal: the others must stop at the same step
    asked = plan.get("stop_at") if ranks.rank == ranks.world - 1 else None
    trainer.train(plan["until"], lambda _: None, lambda: trainer.progress.step == asked)
    trainer.save()
    trainer.finish_save()
    state = trainer.engine.state()
    if ranks.rank == 0 and "out" in plan:
        Path(plan["out"]).write_text(json.dumps(numbers(trainer.progress, state)))


def numbers(progress: Progress, state: dict[str, Any]) -> dict[str, Any]:
    curves = asdict(progress.curves)
    found = {name: curves[name] for name in ("step", "tokens", "loss", "lr", "grad_norm")}
    found["parameters"] = {name: value.tolist() for name, value in state["parameters"].items()}
    found["moments"] = {
        name: {key: value.tolist() for key, value in own.items()} for name, own in state["moments"].items()
    }
    return found


def main() -> None:
    rank, world, plan = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    config_file = plan.with_name(f"config-{rank}.yaml")
    config_file.write_text("name: c\npreset: demo\nseed: 0\n")
    config = load_config(config_file).training
    ranks = Ranks(rank, rank, world)
    meeting = Meeting.of(plan.parent, plan.stem) if world > 1 else None
    try:
        with process_group(ranks, 1, meeting):
            for part in json.loads(plan.read_text()):
                train(part, config, ranks)
    except Exception as error:
        if is_lost_rank(error):
            print(f"lost a rank: {error}", file=sys.stderr, flush=True)
            os._exit(LOST_RANK)
        raise


if __name__ == "__main__":
    main()
    # gloo's threads outlive the process group, and one that lets go of a tensor while the interpreter ends
    # aborts the process: https://github.com/pytorch/pytorch/pull/179291
    os._exit(0)
