"""Train one model through DeepSpeed's engine: the same loop for a CPU core and for GPUs.

The loop is resumable at every step: model, optimiser, generators and curves are in the checkpoint, the
batch is a pure function of the step, and so is the learning rate.
"""

import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")

import deepspeed

from asiarch.hpc.checkpoints import CheckpointFolder
from asiarch.hpc.config import TrainingConfig
from asiarch.hpc.failures import Diverged

Batch = tuple[np.ndarray, np.ndarray]


class Batches(Protocol):
    """Token batches as a pure function of the step: inputs and targets, int64, (batch, length)."""

    def __getitem__(self, step: int) -> Batch: ...


@dataclass(frozen=True)
class CosineSchedule:
    """Linear warm-up, then half a cosine down to `floor` x `peak` at `total_steps`."""

    peak: float
    floor: float
    warmup_steps: int
    total_steps: int

    def __call__(self, step: int) -> float:
        """The learning rate of the update number `step`, counted from 0."""
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        return self.peak * (
            self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        )


@dataclass
class Curves:
    """What training logged, one entry a log interval; all lists have one length."""

    step: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    grad_norm: list[float] = field(default_factory=list)
    tokens_per_s: list[float] = field(default_factory=list)


@dataclass
class Progress:
    """Where training stands; what a checkpoint holds beside the engine."""

    step: int = 0
    seconds: float = 0.0
    curves: Curves = field(default_factory=Curves)


def start_process(threads: int) -> torch.device:
    """Join this process to torch.distributed (one rank) and return the device that it trains on."""
    torch.set_num_threads(threads)
    # DeepSpeed would compile a shared-memory collective with g++ (a minute, and a lock left behind by a
    # killed build); gloo serves without it
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # DeepSpeed asks for these, as its own launcher would set them
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if not torch.distributed.is_initialized():
        # a store in memory: no port that two trials on a node could both want
        torch.distributed.init_process_group(
            backend, store=torch.distributed.HashStore(), rank=0, world_size=1
        )
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Trainer:
    """One model under a DeepSpeed engine, with its schedule and its checkpoints.

    Args:
        model: called as model(inputs, targets), returns the scalar loss.
        batches: the training batches.
        schedule: the learning rate as a function of the step.
        config: optimiser, precision and logging.
        checkpoints: where to resume from and to store to.
        seed: for the generators that the program itself draws from (dropout).
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Batches,
        schedule: Callable[[int], float],
        config: TrainingConfig,
        checkpoints: CheckpointFolder,
        seed: int,
    ) -> None:
        self.batches = batches
        self.schedule = schedule
        self.config = config
        self.checkpoints = checkpoints
        self.progress = Progress()
        torch.manual_seed(seed)
        self.batch_shape = batches[0][0].shape
        self.engine, *_ = deepspeed.initialize(
            model=model,
            optimizer=_optimizer(model, config),
            config=_engine_config(config, self.batch_shape[0]),
        )
        self._resume()

    @property
    def model(self) -> nn.Module:
        """The trained module, outside of the engine."""
        return self.engine.module

    def _resume(self) -> None:
        state = self.checkpoints.load(self.engine)
        if state is not None:
            self.progress = Progress(state["step"], state["seconds"], Curves(**state["curves"]))
            torch.set_rng_state(state["generator"])

    def save(self) -> None:
        """Write a checkpoint of what was reached."""
        state: dict[str, Any] = asdict(self.progress) | {"generator": torch.get_rng_state()}
        self.checkpoints.save(self.engine, self.progress.step, state)

    def train(
        self, until_step: int, on_log: Callable[[Progress], None], should_stop: Callable[[], bool]
    ) -> bool:
        """Train up to `until_step`; False where `should_stop` ended it first, with a checkpoint.

        Raises:
            Diverged: the loss is not finite.
        """
        self.engine.train()
        progress, config = self.progress, self.config
        last_save = time.monotonic()
        while progress.step < until_step:
            first = progress.step
            began = time.perf_counter()
            end = min(until_step, (first // config.log_every + 1) * config.log_every)
            loss, grad_norm = self._steps(first, end)
            seconds = time.perf_counter() - began
            self._log(end, loss, grad_norm, (end - first) / seconds)
            progress.step = end
            progress.seconds += seconds
            on_log(progress)
            if should_stop():
                self.save()
                return False
            if time.monotonic() - last_save > config.checkpoint_every and end < until_step:
                self.save()
                last_save = time.monotonic()
        return True

    def _steps(self, first: int, end: int) -> tuple[float, float]:
        """Updates `first` to `end`; the mean loss and the last gradient norm before clipping."""
        total = torch.zeros((), device=self.engine.device)
        for step in range(first, end):
            inputs, targets = (torch.from_numpy(part).to(self.engine.device) for part in self.batches[step])
            for group in self.engine.optimizer.param_groups:
                group["lr"] = self.schedule(step)
            loss = self.engine(inputs, targets)
            self.engine.backward(loss)
            total += loss.detach()
            if step == end - 1:
                grad_norm = self._grad_norm()
            self.engine.step()
        mean = float(total) / (end - first)
        if not math.isfinite(mean):
            raise Diverged(f"the training loss is {mean} between steps {first} and {end}")
        return mean, grad_norm

    def _grad_norm(self) -> float:
        gradients = [p.grad for p in self.engine.module.parameters() if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(gradients)) if gradients else 0.0

    def _log(self, step: int, loss: float, grad_norm: float, steps_per_s: float) -> None:
        curves = self.progress.curves
        batch_tokens = self.batch_shape[0] * self.batch_shape[1]
        curves.step.append(step)
        curves.tokens.append(step * batch_tokens)
        curves.loss.append(loss)
        curves.lr.append(self.schedule(step - 1))
        curves.grad_norm.append(grad_norm)
        curves.tokens_per_s.append(steps_per_s * batch_tokens)


def _optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    # decay for matrices alone: gains, biases and decay rates are not to be pulled to zero
    matrices = [p for p in model.parameters() if p.requires_grad and p.ndim >= 2]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=config.betas,
        fused=True,
    )


def _engine_config(config: TrainingConfig, batch_size: int) -> dict[str, Any]:
    return {
        "train_batch_size": batch_size,
        "gradient_clipping": config.gradient_clipping,
        "zero_optimization": {"stage": config.zero_stage},
        "bf16": {"enabled": config.precision == "bf16"},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 2**31 - 1,
    }
