"""The training loop: the same for a CPU core, for the GPUs of a node, and over nodes.

Resumable at every step: masters, moments, generators, buffers and the log are in the checkpoint, the batch is
a pure function of the step, and so is the learning rate. The batch is global; ranks share its rows.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import distributed, nn

from asiarch.hpc.config import TrainingConfig
from asiarch.hpc.data.batches import document_boundaries
from asiarch.hpc.failures import Diverged
from asiarch.hpc.training.checkpoints import CheckpointFolder, load_checkpoint
from asiarch.hpc.training.compiler import leave_compiler_out, may_compile
from asiarch.hpc.training.engine import Engine
from asiarch.hpc.training.learning_rate import Schedule
from asiarch.hpc.training.micro_batch import fitting_tokens
from asiarch.hpc.training.ranks import Ranks
from asiarch.hpc.training.utilisation import flops_per_row, peak_flops, peak_memory_bytes
from asiarch.models.errors import UserError

Batch = tuple[np.ndarray, np.ndarray]


class Batches(Protocol):
    """This rank's rows of the global batch, a pure function of the step: inputs and targets, (rows, length) int64."""

    def __getitem__(self, step: int) -> Batch: ...


@dataclass(frozen=True)
class RankShare:
    """One rank's rows of batches that are made whole."""

    batches: Batches
    ranks: Ranks

    def __getitem__(self, step: int) -> Batch:
        inputs, targets = self.batches[step]
        rows = len(inputs) // self.ranks.world
        first = self.ranks.rank * rows
        return inputs[first : first + rows], targets[first : first + rows]


@dataclass
class Curves:
    """What training logged, one entry a log interval; all lists have one length.

    tokens_per_s: over all ranks. flops_utilisation: share of the peak, see `utilisation`. memory_bytes: the most
    that rank 0 held so far. data_wait: share of the interval's time in which it waited for its batch.
    seconds: spent in training so far.
    """

    step: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    lr: list[float] = field(default_factory=list)
    grad_norm: list[float] = field(default_factory=list)
    tokens_per_s: list[float] = field(default_factory=list)
    flops_utilisation: list[float] = field(default_factory=list)
    memory_bytes: list[int] = field(default_factory=list)
    data_wait: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


@dataclass
class Interval:
    """What has gathered since the last log entry, up to a checkpoint: this rank's losses summed, and seconds."""

    loss: float = 0.0
    seconds: float = 0.0
    waited_s: float = 0.0


@dataclass
class Progress:
    """Where training stands; what a checkpoint holds beside the engine."""

    step: int = 0
    seconds: float = 0.0
    curves: Curves = field(default_factory=Curves)


class Trainer:
    """One model in training.

    Args:
        model: on its device; called as model(inputs, targets), returns the mean loss over its rows.
        batches: this rank's share of the training batches.
        schedule: the learning rate as a function of the step.
        config: optimiser, precision and logging.
        checkpoints: where to resume from and to store to.
        seed: for the generators that the program itself draws from (dropout).
        ranks: which of the processes that train this model this one is; they have joined their process group.
        document_end: the end token, where the model is told document boundaries: it is then called as
            model(inputs, targets, cu_seqlens).

    Raises:
        UserError: the ranks cannot share a batch.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Batches,
        schedule: Schedule,
        config: TrainingConfig,
        checkpoints: CheckpointFolder,
        seed: int,
        ranks: Ranks,
        document_end: int | None = None,
    ) -> None:
        self.batches = batches
        self.schedule = schedule
        self.config = config
        self.checkpoints = checkpoints
        self.ranks = ranks
        self._document_end = document_end
        self.progress = Progress()
        self._device = next(model.parameters()).device
        self._carried = Interval()  # what a checkpoint had of the log interval it was taken in
        self._rows, self._length = batches[0][0].shape
        if not may_compile(config, self._device):
            leave_compiler_out()
        state = self._newest()
        self.micro_batch_tokens = self._choose_micro_batch(model, state)
        self._accumulation = accumulation(self._rows, self._length, self.micro_batch_tokens)
        first_row = [torch.from_numpy(part[:1]).to(self._device) for part in batches[0]]
        self._flops_per_step = self._rows * flops_per_row(model, *first_row)
        self._peak_flops = peak_flops(self._device)
        if config.compile:
            model.compile()
        torch.manual_seed(seed + 1_000_003 * ranks.rank)
        self.engine = Engine(
            model,
            config,
            batch_size=self._rows * ranks.world,
            world=ranks.world,
            accumulation=self._accumulation,
            state=None if state is None else state["engine"],
        )
        if state is not None:
            self._resume(state)

    @property
    def model(self) -> nn.Module:
        """The trained module, outside of the engine."""
        return self.engine.module

    def _choose_micro_batch(self, model: nn.Module, state: dict[str, Any] | None) -> int:
        """As configured; else as before, since another would round differently; else what fits."""
        given = self.config.micro_batch_tokens
        if given is not None:
            return given
        if state is not None and len(state["ranks"]) == self.ranks.world:
            return int(state["micro_batch_tokens"])
        inputs, targets = (torch.from_numpy(part[:2]).to(self._device) for part in self.batches[0])
        return fitting_tokens(model, inputs, targets, self.config)

    # -- coming back -------------------------------------------------------------------------------------

    def _newest(self) -> dict[str, Any] | None:
        """The newest checkpoint; rank 0 says which, since the others may see the folder a moment later."""
        chosen = [self.checkpoints.latest()] if self.ranks.rank == 0 else [None]
        if self.ranks.world > 1:
            distributed.broadcast_object_list(chosen, src=0)
        return None if chosen[0] is None else load_checkpoint(chosen[0])

    def _resume(self, state: dict[str, Any]) -> None:
        self.progress = Progress(state["step"], state["seconds"], Curves(**state["curves"]))
        shares = state["ranks"]
        own = shares[self.ranks.rank if len(shares) == self.ranks.world else 0]
        buffers = dict(self.model.named_buffers())
        for name, value in own["buffers"].items():
            buffers[name].copy_(value)
        if len(shares) == self.ranks.world:
            self._carried = Interval(**own["interval"])
            torch.set_rng_state(own["generator"])
            if self._device.type == "cuda":
                torch.cuda.set_rng_state(own["cuda_generator"], self._device)
        else:
            # at another number of ranks there is no state of this rank's own: a new stream, the mean loss so far
            losses = [share["interval"]["loss"] for share in shares]
            self._carried = Interval(**{**own["interval"], "loss": sum(losses) / len(losses)})
            torch.manual_seed(torch.initial_seed() + self.progress.step + 1)

    def save(self) -> None:
        """Begin a checkpoint of what was reached, and go on beside it. Collective."""
        interval = self._interval_so_far()
        own: dict[str, Any] = {
            "interval": asdict(interval),
            "generator": torch.get_rng_state(),
            "buffers": {name: value.detach().cpu().clone() for name, value in self.model.named_buffers()},
        }
        if self._device.type == "cuda":
            own["cuda_generator"] = torch.cuda.get_rng_state(self._device)
        shares = [own] * self.ranks.world
        if self.ranks.world > 1:
            distributed.all_gather_object(shares, own)
        engine = self.engine.state()
        if self.ranks.rank == 0:
            state = asdict(self.progress) | {"ranks": shares, "engine": engine}
            state["micro_batch_tokens"] = self.micro_batch_tokens
            self.checkpoints.save(self.progress.step, state)
        self._begin_interval(interval)  # what saving took is no training time

    def finish_save(self) -> None:
        """Wait until the last checkpoint is on the disk, on every rank."""
        self.checkpoints.finish()
        if self.ranks.world > 1:
            distributed.barrier()

    # -- going forward -----------------------------------------------------------------------------------

    def train(
        self, until_step: int, on_log: Callable[[Progress], None], should_stop: Callable[[], bool]
    ) -> bool:
        """Train up to `until_step`; False where `should_stop` of any rank ended it first, with a checkpoint.

        Raises:
            Diverged: the loss is not finite.
        """
        self.model.train()
        self._begin_interval(self._carried)
        self._carried = Interval()
        last_save = time.monotonic()
        while self.progress.step < until_step:
            step = self.progress.step
            logs = (step + 1) % self.config.log_every == 0 or step + 1 == until_step
            grad_norm = self._step(step, with_norm=logs)
            self.progress.step = step + 1
            if logs:
                self._log(grad_norm)
                on_log(self.progress)
            save_due = time.monotonic() - last_save > self.config.checkpoint_every
            stop, save_due = self._agree(should_stop(), save_due)
            if stop:
                self.save()
                self.finish_save()
                return False
            if save_due and self.progress.step < until_step:
                self.save()
                last_save = time.monotonic()
        return True

    def _agree(self, *wishes: bool) -> list[bool]:
        """For each wish, whether any rank has it: signals and clocks differ, decisions must not."""
        if self.ranks.world == 1:
            return list(wishes)
        votes = torch.tensor(wishes, dtype=torch.int32)
        distributed.all_reduce(votes, op=distributed.ReduceOp.MAX)
        return [bool(vote) for vote in votes]

    def _begin_interval(self, interval: Interval) -> None:
        # summed on the device: to look at it after each step would hold a GPU up
        self._loss = torch.tensor(interval.loss, device=self._device)
        self._waited_s = interval.waited_s
        self._began = time.perf_counter() - interval.seconds

    def _interval_so_far(self) -> Interval:
        loss = float(self._loss)
        return Interval(loss, time.perf_counter() - self._began, self._waited_s)

    def _step(self, step: int, with_norm: bool) -> float:
        began = time.perf_counter()
        inputs, targets = (torch.from_numpy(part) for part in self.batches[step])
        self._waited_s += time.perf_counter() - began
        self.engine.set_learning_rate(self.schedule(step))
        norm = 0.0
        micro_batches = zip(inputs.chunk(self._accumulation), targets.chunk(self._accumulation), strict=True)
        for index, (part_inputs, part_targets) in enumerate(micro_batches):
            part = [part_inputs, part_targets]
            if self._document_end is not None:
                boundaries = document_boundaries(part_inputs.numpy(), self._document_end)
                part.append(torch.from_numpy(boundaries))
            part = [tensor.to(self._device) for tensor in part]
            self._loss += self.engine.backward(*part) / self._accumulation
            last = index == self._accumulation - 1
            norm = self.engine.step(with_norm=last and with_norm)
        return norm

    def _log(self, grad_norm: float) -> None:
        curves, interval = self.progress.curves, self._interval_so_far()
        step, first = self.progress.step, curves.step[-1] if curves.step else 0
        mean = self._mean_over_ranks(interval.loss / (step - first))
        if not math.isfinite(mean):
            raise Diverged(f"the training loss is {mean} between steps {first} and {step}")
        seconds = max(interval.seconds, 1e-9)
        batch_tokens = self._rows * self._length * self.ranks.world
        curves.step.append(step)
        curves.tokens.append(step * batch_tokens)
        curves.loss.append(mean)
        curves.lr.append(self.schedule(step - 1))
        curves.grad_norm.append(grad_norm)
        curves.tokens_per_s.append((step - first) * batch_tokens / seconds)
        flops = (step - first) * self._flops_per_step
        curves.flops_utilisation.append(flops / seconds / self._peak_flops)
        curves.memory_bytes.append(peak_memory_bytes(self._device))
        curves.data_wait.append(interval.waited_s / seconds)
        self.progress.seconds += interval.seconds
        curves.seconds.append(self.progress.seconds)
        self._begin_interval(Interval())

    def _mean_over_ranks(self, value: float) -> float:
        if self.ranks.world == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64)
        distributed.all_reduce(total)
        return float(total) / self.ranks.world


def accumulation(rows: int, length: int, micro_batch_tokens: int) -> int:
    """Into how many micro-batches a rank cuts its rows: as few as keep each within `micro_batch_tokens`.

    Raises:
        UserError: one row alone has more tokens.
    """
    if length > micro_batch_tokens:
        raise UserError(
            f"training.micro_batch_tokens {micro_batch_tokens} is less than one row of {length} tokens"
        )
    return next(n for n in range(1, rows + 1) if rows % n == 0 and rows // n * length <= micro_batch_tokens)
