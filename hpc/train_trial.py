"""Train and measure one trial, and write its result: what a task does once it has its slot."""

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

import numpy as np
import torch

from asiarch.hpc.code_version import code_version
from asiarch.hpc.config import CampaignConfig, config_hash, load_frozen
from asiarch.hpc.config_evaluation import TaskName
from asiarch.hpc.data import Batches, Dataset, evaluation_windows, open_dataset
from asiarch.hpc.evaluation.decoding import why_not_decodable
from asiarch.hpc.evaluation.held_out import HeldOut, held_out_loss
from asiarch.hpc.evaluation.parts import Numbers, Parts
from asiarch.hpc.evaluation.speed import measure_speed
from asiarch.hpc.evaluation.synthetic import SyntheticTask, score_of_best, synthetic_task, task_model
from asiarch.hpc.failures import Diverged
from asiarch.hpc.layout import RunLayout, TrialLayout
from asiarch.hpc.training.checkpoints import CheckpointFolder
from asiarch.hpc.training.compiler import may_compile
from asiarch.hpc.training.learning_rate import schedule
from asiarch.hpc.training.process_group import process_group
from asiarch.hpc.training.ranks import Meeting, Ranks
from asiarch.hpc.training.trainer import Curves, Progress, RankShare, Trainer
from asiarch.hpc.training.watchdog import Watchdog
from asiarch.hpc.trial import Stopped, StopSignal
from asiarch.hpc.trial_report import TrialReport
from asiarch.models.baselines import baseline_path
from asiarch.models.contract import ContractError, load_mixer_class, takes_cu_seqlens
from asiarch.models.language_model import (
    LanguageModel,
    ModelConfig,
    match_ffn_width,
    parameter_count,
    reference_parameters,
)
from asiarch.results.record import FINISHED, LossCurve, SpeedTable, TrainCurve, TrialRecord
from asiarch.results.schema import read_trial, write_trial
from asiarch.results.trial import TaskResult, TrialKey

# streams of a synthetic task's generator: training, choosing a learning rate and scoring must never meet
TASK_TRAINING, TASK_SCORING, TASK_SELECTION = 0, 1, 2
TASK_SCORING_BATCHES = 8


def train_trial(
    run: RunLayout, key: TrialKey, stop: StopSignal, began: float, ranks: Ranks, meeting: Meeting
) -> None:
    """Train one trial to its rung, measure it and write `result.h5`. Every rank of the trial calls this.

    Args:
        meeting: where the ranks find each other.
        began: when the trial began to cost, in seconds since the epoch; the wait for a slot is no part of it.

    Raises:
        Stopped: told to stop; the state reached is in the checkpoint.
        Diverged: the loss is not finite.
        PartFailedError: the training is complete, and a part of the evaluation raised.
    """
    started = time.time()
    config = load_frozen(run.config)
    # under Slurm a rank uses the cores that it was given
    threads = config.slurm.cpus_per_task if config.executor == "slurm" else config.training.threads
    with process_group(ranks, threads, meeting if ranks.world > 1 else None) as device:
        trial = TrialRun(run, key, stop, started, config, ranks, device)
        record = trial.measure(began)
        if ranks.rank == 0:
            write_trial(trial.layout.result, record)
            trial.report.result(record)


@dataclass
class TrialRun:
    """One trial under way."""

    run: RunLayout
    key: TrialKey
    stop: StopSignal
    started: float
    config: CampaignConfig
    ranks: Ranks
    device: torch.device
    first_step_at: float = 0.0

    def __post_init__(self) -> None:
        self.layout = self.run.trial(self.key.candidate, self.key.rung, self.key.seed)
        self.report = TrialReport(self.key, self.layout, self.started, self.ranks.rank)
        self.report.phase("starting")
        self.dataset: Dataset = open_dataset(self.run.dataset(self.config))
        # its own torch.compile is for GPUs: on a CPU it would wait for a compiler longer than it saves
        program = self.run.program(self.key.candidate)
        self.mixer_class = load_mixer_class(program, compiled=self.device.type == "cuda")
        self.sizes = model_sizes(self.config, self.dataset.manifest.vocab_size)
        self.ffn_width = self._matched_width()

    def _matched_width(self) -> int:
        reference = load_mixer_class(baseline_path(self.config.model.match_parameters_to))
        target = reference_parameters(self.sizes, reference)
        return match_ffn_width(self.sizes, self.mixer_class, target).width

    @property
    def _document_end(self) -> int | None:
        """The token that ends documents, where mixers are told their boundaries."""
        if not self.config.data.document_boundaries:
            return None
        if not takes_cu_seqlens(self.mixer_class):
            raise ContractError(
                f"{self.run.program(self.key.candidate)}: forward does not name cu_seqlens, which "
                "data.document_boundaries needs"
            )
        return self.dataset.end_id

    @property
    def random_seed(self) -> int:
        """The same for all candidates at this trial seed: equal embeddings at the start, equal data order."""
        return int(np.random.SeedSequence([self.config.seed, self.key.seed]).generate_state(1)[0])

    def measure(self, began: float) -> TrialRecord:
        """Train, evaluate, and give all that was measured."""
        language, progress = self.train_language_model()
        if may_compile(self.config.training, self.device):
            torch.compiler.set_stance("force_eager")  # evaluation has shapes of its own, each used little
        parts = Parts(self.layout.evaluation, self.ranks)
        held_out = {
            split: parts.measure(split, partial(self.held_out, language, split))
            for split in ("validation", "test")
        }
        tasks = {
            name: parts.measure(name, work, below=self._below(name))
            for name, work in self._tasks(language).items()
        }
        speed = parts.measure("speed", self.speed, below=self._speed_below())
        parts.require_all()
        tokens = progress.curves.tokens[-1]
        elapsed_s = time.time() - self.started
        evaluated = [*held_out.values(), *tasks.values(), speed]
        return TrialRecord(
            key=self.key,
            stage=self.config.preset,
            parameters=self.parameters,
            tokens=tokens,
            config_hash=config_hash(self.config),
            code_version=code_version(),
            torch=torch.__version__,
            device=_device_name(self.device),
            slurm_job_id=os.environ.get("SLURM_JOB_ID", ""),
            started=datetime.fromtimestamp(self.started, timezone.utc).isoformat(timespec="milliseconds"),
            elapsed_s=elapsed_s,
            startup_s=self.first_step_at - began,
            training_s=progress.seconds + sum(part["training_s"] for part in evaluated),
            evaluation_s=sum(part["evaluation_s"] for part in evaluated),
            gpu_hours=self.ranks.world * elapsed_s / 3600 if self.device.type == "cuda" else 0.0,
            outcome=FINISHED,
            train=_train_curve(progress.curves),
            validation=_one_point(tokens, held_out["validation"]),
            test=_one_point(tokens, held_out["test"]),
            tasks={name: _task_result(part) for name, part in tasks.items()},
            speed=_speed_table(speed),
        )

    def train_language_model(self) -> tuple[torch.nn.Module, Progress]:
        """The language model trained to this rung's tokens; it goes on from the rung below."""
        training = self.config.training
        batches = Batches(
            self.dataset.split("train"),
            length=training.length,
            batch_size=training.batch_tokens // training.length,
            seed=self.random_seed,
            rank=self.ranks.rank,
            world=self.ranks.world,
        )
        model = self._model(self.sizes)
        # before DeepSpeed partitions the parameters
        self.parameters = parameter_count(model)
        folder = CheckpointFolder(self.layout.checkpoint, before=self._rung_below("checkpoint"))
        rates = schedule(training, training.learning_rate, training.total_steps)
        trainer = Trainer(
            model, batches, rates, training, folder, self.random_seed, self.ranks, self._document_end
        )
        self.first_step_at = time.time()
        self.micro_batch_tokens = trainer.micro_batch_tokens
        self._train(trainer, self.config.rung_steps(self.key.rung), "training")
        return trainer.model, trainer.progress

    def held_out(self, model: torch.nn.Module, split: str) -> Numbers:
        """Loss on a held-out split: the same windows, spread over it, for every trial."""
        self.report.phase("evaluating")
        settings, training = self.config.evaluation, self.config.training
        tokens = settings.validation_tokens if split == "validation" else settings.test_tokens
        windows = evaluation_windows(self.dataset.split(split), length=training.length, tokens=tokens)
        batch_size = max(1, self.micro_batch_tokens // training.length)
        found: HeldOut = held_out_loss(model, windows, batch_size, self.ranks, self._document_end)
        bytes_per_token = self.dataset.manifest.bytes_per_token(split)
        return asdict(found) | {"bits_per_byte": found.bits_per_byte(bytes_per_token)}

    def _tasks(self, language: torch.nn.Module) -> dict[str, Callable[[], Numbers]]:
        """How each task is measured: the synthetic ones on small models of their own."""
        tasks: dict[str, Callable[[], Numbers]] = {}
        for task in self.config.evaluation.tasks:
            tasks[task] = partial(self.synthetic_task, task)
        for benchmark in self.config.evaluation.downstream.tasks:
            tasks[benchmark] = partial(self.downstream_task, language, benchmark)
        return tasks

    def _below(self, name: str) -> "Numbers | None":
        """A synthetic task's result at the rung below: their models do not depend on the rung."""
        if self.key.rung == 0 or name not in self.config.evaluation.tasks:
            return None
        return asdict(self._record_below().tasks[name]) | {"training_s": 0.0, "evaluation_s": 0.0}

    def _speed_below(self) -> "Numbers | None":
        """What the rung below measured: speed does not depend on the rung."""
        if self.key.rung == 0:
            return None
        columns = {name: values.tolist() for name, values in vars(self._record_below().speed).items()}
        return columns | {"training_s": 0.0, "evaluation_s": 0.0}

    def _record_below(self) -> TrialRecord:
        below = TrialKey(self.key.candidate, self.key.rung - 1, self.key.seed)
        return read_trial(below.result_path(self.run.root))

    def synthetic_task(self, name: TaskName) -> Numbers:
        """Train a small model of the mixer on the task at each learning rate, and score the one that does best.

        A rate at which training diverges is not the best one.

        Raises:
            Diverged: at every rate.
        """
        models: list[torch.nn.Module] = []
        training_s = 0.0
        for place, rate in enumerate(self.config.evaluation.task(name).learning_rates):
            try:
                trainer = self._train_on_task(name, rate, self.layout.tasks / name / str(place))
            except Diverged as error:
                self.report.say("diverged", task=name, learning_rate=f"{rate:g}")
                diverged = error
            else:
                training_s += trainer.progress.seconds
                models.append(trainer.model)
        if not models:
            raise diverged
        selection, scoring = (self._task_stream(name, stream) for stream in (TASK_SELECTION, TASK_SCORING))
        score = score_of_best(models, selection, scoring, TASK_SCORING_BATCHES)
        return asdict(score) | {"training_s": training_s}

    def _train_on_task(self, name: TaskName, rate: float, checkpoints: Path) -> Trainer:
        sizes = self.config.evaluation.task(name)
        task = self._task_stream(name, TASK_TRAINING)
        language = self._model(model_sizes(self.config, task.vocabulary))
        model = task_model(name, language, sizes.length, self.random_seed).to(self.device)
        at_once = self.config.training.micro_batch_tokens
        training = self.config.training.model_copy(
            update={
                "schedule": "cosine",
                "min_learning_rate_ratio": 0.0,
                "warmup": 0.1,
                "compile": False,  # no task trains for long enough
                "micro_batch_tokens": None if at_once is None else max(sizes.length, at_once),
            }
        )
        rates = schedule(training, rate, sizes.steps)
        folder = CheckpointFolder(checkpoints)
        share = RankShare(task, self.ranks)
        trainer = Trainer(model, share, rates, training, folder, self.random_seed, self.ranks)
        self._train(trainer, sizes.steps, name)
        return trainer

    def downstream_task(self, language: torch.nn.Module, name: str) -> Numbers:
        """A benchmark of lm-eval on the trained language model."""
        # imported here: it takes seconds, and an extra
        from asiarch.hpc.evaluation.downstream import measure_task

        self.report.phase(name)
        settings, length = self.config.evaluation.downstream, self.config.training.length
        return asdict(measure_task(language, self.dataset.tokenizer(), name, settings, length, self.ranks))

    def speed(self) -> Numbers:
        """Speed and memory at the lengths asked for; says in the log where a program has no cache to decode with."""
        settings, training = self.config.evaluation.speed, self.config.training
        if not settings.lengths:
            return {}
        self.report.phase("speed")
        model = self._model(self.sizes)
        obstacle = why_not_decodable(model, self.mixer_class)
        if obstacle is not None:
            self.report.say("cannot decode with a cache", reason=repr(obstacle))
        if training.precision == "bf16":
            model = model.bfloat16()
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            return measure_speed(model, settings, decodes=obstacle is None)

    def _task_stream(self, name: TaskName, stream: int) -> SyntheticTask:
        seed = np.random.SeedSequence([self.config.seed, self.key.seed, stream]).generate_state(1)[0]
        return synthetic_task(name, self.config.evaluation, int(seed), scoring=stream != TASK_TRAINING)

    def _model(self, sizes: ModelConfig) -> LanguageModel:
        model = LanguageModel(sizes, self.mixer_class, self.ffn_width, seed=self.random_seed)
        model.activation_checkpointing = self.config.training.activation_checkpointing
        return model.to(self.device)

    def _train(self, trainer: Trainer, until_step: int, phase: str) -> None:
        def on_log(progress: Progress) -> None:
            self.report.phase(phase, progress, until_step)
            if watchdog is not None:
                watchdog.look(progress.curves)

        watchdog = self._watchdog() if phase == "training" else None

        self.stop.training = True
        try:
            completed = trainer.train(until_step, on_log, lambda: self.stop.requested)
        finally:
            self.stop.training = False
        if not completed:
            raise Stopped
        trainer.save()
        trainer.finish_save()

    def _watchdog(self) -> Watchdog:
        # the reference is watched by no other, and known programs may well be better than it
        known = self.key.candidate < len(self.config.baselines)
        reference = self.run.trial(0, self.key.rung, self.key.seed).result
        curve = None if known or not reference.exists() else read_trial(reference).train
        return Watchdog(self.config.watchdog, self.config.training.warmup_steps, curve)

    def _rung_below(self, name: str) -> "CheckpointFolder | None":
        if self.key.rung == 0:
            return None
        below: TrialLayout = self.run.trial(self.key.candidate, self.key.rung - 1, self.key.seed)
        return CheckpointFolder(below.root / name)


def model_sizes(config: CampaignConfig, vocab_size: int) -> ModelConfig:
    """The sizes of the language model around every mixer of a campaign."""
    return ModelConfig(vocab_size, config.model.layers, config.model.hidden_size, config.model.num_heads)


def _train_curve(curves: Curves) -> TrainCurve:
    return TrainCurve(
        step=np.array(curves.step, dtype=np.int64),
        tokens=np.array(curves.tokens, dtype=np.int64),
        loss=np.array(curves.loss),
        lr=np.array(curves.lr),
        grad_norm=np.array(curves.grad_norm),
        tokens_per_s=np.array(curves.tokens_per_s),
        flops_utilisation=np.array(curves.flops_utilisation),
        memory_bytes=np.array(curves.memory_bytes, dtype=np.int64),
        data_wait=np.array(curves.data_wait),
        seconds=np.array(curves.seconds),
    )


def _one_point(tokens_seen: int, held_out: Numbers) -> LossCurve:
    return LossCurve(
        tokens=np.array([tokens_seen], dtype=np.int64),
        loss=np.array([held_out["loss"]]),
        standard_error=np.array([held_out["standard_error"]]),
        bits_per_byte=np.array([held_out["bits_per_byte"]]),
        windows=np.array([held_out["windows"]], dtype=np.int64),
    )


def _speed_table(part: Numbers) -> SpeedTable:
    kinds = {name: column.dtype for name, column in vars(SpeedTable.empty()).items()}
    return SpeedTable(**{name: np.array(part.get(name, []), kind) for name, kind in kinds.items()})


def _task_result(part: Numbers) -> TaskResult:
    return TaskResult(part["score"], int(part["n"]), part["standard_error"])


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
