"""Train and measure one trial, and write its result: what a task does once it has its slot."""

import os
import socket
import time
from dataclasses import dataclass
from datetime import datetime, timezone

import numpy as np
import torch

from asiarch.hpc.code_version import code_version
from asiarch.hpc.config import CampaignConfig, TaskName, config_hash, load_frozen
from asiarch.hpc.data import Batches, Dataset, evaluation_windows, open_dataset
from asiarch.hpc.evaluation.held_out import held_out_loss
from asiarch.hpc.evaluation.synthetic import SyntheticTask, accuracy, synthetic_task
from asiarch.hpc.layout import RunLayout, TrialLayout
from asiarch.hpc.progress import TrialProgress, write_progress
from asiarch.hpc.training.checkpoints import CheckpointFolder
from asiarch.hpc.training.learning_rate import schedule
from asiarch.hpc.training.process_group import process_group
from asiarch.hpc.training.ranks import Meeting, Ranks
from asiarch.hpc.training.trainer import Curves, Progress, RankShare, Trainer
from asiarch.hpc.training.watchdog import Watchdog
from asiarch.hpc.trial import Stopped, StopSignal
from asiarch.models.baselines import baseline_path
from asiarch.models.contract import load_mixer_class
from asiarch.models.language_model import (
    LanguageModel,
    ModelConfig,
    match_ffn_width,
    parameter_count,
    reference_parameters,
)
from asiarch.results.record import FINISHED, LossCurve, TaskResult, TrainCurve, TrialRecord
from asiarch.results.schema import read_trial, write_trial
from asiarch.results.trial import TrialKey

# streams of a synthetic task's generator: training and scoring must never meet
TASK_TRAINING, TASK_SCORING = 0, 1
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
    """
    started = time.time()
    config = load_frozen(run.config)
    with process_group(ranks, config.training.threads, meeting if ranks.world > 1 else None) as device:
        trial = TrialRun(run, key, stop, started, config, ranks, device)
        record = trial.measure(began)
        if ranks.rank == 0:
            write_trial(trial.layout.result, record)
            trial.say_result(record)


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
        self.report_phase("starting")
        self.dataset: Dataset = open_dataset(self.run.dataset(self.config))
        self.mixer_class = load_mixer_class(self.run.program(self.key.candidate))
        self.sizes = model_sizes(self.config, self.dataset.manifest.vocab_size)
        self.ffn_width = self._matched_width()

    def _matched_width(self) -> int:
        reference = load_mixer_class(baseline_path(self.config.model.match_parameters_to))
        target = reference_parameters(self.sizes, reference)
        return match_ffn_width(self.sizes, self.mixer_class, target).width

    @property
    def random_seed(self) -> int:
        """The same for all candidates at this trial seed: equal embeddings at the start, equal data order."""
        return int(np.random.SeedSequence([self.config.seed, self.key.seed]).generate_state(1)[0])

    def measure(self, began: float) -> TrialRecord:
        """Train, evaluate, and give all that was measured."""
        language, progress = self.train_language_model()
        evaluating = time.perf_counter()
        validation, _ = self.held_out(language, "validation", self.config.evaluation.validation_tokens)
        test, _ = self.held_out(language, "test", self.config.evaluation.test_tokens)
        evaluation_s = time.perf_counter() - evaluating
        tasks, tasks_s = self.synthetic_tasks()
        tokens = progress.curves.tokens[-1]
        elapsed_s = time.time() - self.started
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
            training_s=progress.seconds + tasks_s,
            evaluation_s=evaluation_s,
            gpu_hours=self.ranks.world * elapsed_s / 3600 if self.device.type == "cuda" else 0.0,
            outcome=FINISHED,
            train=_train_curve(progress.curves),
            validation=_one_point(tokens, validation),
            test=_one_point(tokens, test),
            tasks=tasks,
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
        trainer = Trainer(model, batches, rates, training, folder, self.random_seed, self.ranks)
        self.first_step_at = time.time()
        self._train(trainer, self.config.rung_steps(self.key.rung), "training")
        return trainer.model, trainer.progress

    def synthetic_tasks(self) -> tuple[dict[str, TaskResult], float]:
        """The score of each synthetic task, and the seconds of training that they took.

        Their models are trained apart from the language model, so they do not depend on the rung: from the second
        rung on the scores are those of the rung before.
        """
        if self.key.rung > 0:
            below = TrialKey(self.key.candidate, self.key.rung - 1, self.key.seed)
            return dict(read_trial(below.result_path(self.run.root)).tasks), 0.0
        results: dict[str, TaskResult] = {}
        seconds = 0.0
        for name in self.config.evaluation.tasks:
            results[name], took_s = self._synthetic_task(name)
            seconds += took_s
        return results, seconds

    def _synthetic_task(self, name: TaskName) -> tuple[TaskResult, float]:
        sizes = self.config.evaluation.task(name)
        task = self._task_stream(name, TASK_TRAINING)
        model = self._model(model_sizes(self.config, task.vocabulary))
        training = self.config.training.model_copy(
            update={
                "schedule": "cosine",
                "min_learning_rate_ratio": 0.0,
                "warmup": 0.1,
                "micro_batch_tokens": max(sizes.length, self.config.training.micro_batch_tokens),
            }
        )
        rates = schedule(training, sizes.learning_rate, sizes.steps)
        folder = CheckpointFolder(self.layout.tasks / name)
        share = RankShare(task, self.ranks)
        trainer = Trainer(model, share, rates, training, folder, self.random_seed, self.ranks)
        self._train(trainer, sizes.steps, name)
        score = accuracy(trainer.model, self._task_stream(name, TASK_SCORING), TASK_SCORING_BATCHES)
        return TaskResult(score.score, score.n, score.standard_error), trainer.progress.seconds

    def _task_stream(self, name: TaskName, stream: int) -> SyntheticTask:
        seed = np.random.SeedSequence([self.config.seed, self.key.seed, stream]).generate_state(1)[0]
        return synthetic_task(name, self.config.evaluation, int(seed))

    def _model(self, sizes: ModelConfig) -> LanguageModel:
        model = LanguageModel(sizes, self.mixer_class, self.ffn_width, seed=self.random_seed)
        model.activation_checkpointing = self.config.training.activation_checkpointing
        return model.to(self.device)

    def held_out(self, model: torch.nn.Module, split: str, tokens: int) -> tuple[float, int]:
        """Loss on `tokens` of a held-out split, the same windows, spread over it, for every trial."""
        self.report_phase("evaluating")
        length = self.config.training.length
        windows = evaluation_windows(self.dataset.split(split), length=length, tokens=tokens)
        return held_out_loss(model, windows, batch_size=self.config.training.batch_tokens // length)

    def _train(self, trainer: Trainer, until_step: int, phase: str) -> None:
        def on_log(progress: Progress) -> None:
            self.report_phase(phase, progress, until_step)
            if watchdog is not None:
                watchdog.look(progress.curves)

        watchdog = self._watchdog() if phase == "training" else None

        self.stop.training = True
        completed = trainer.train(until_step, on_log, lambda: self.stop.requested)
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

    def report_phase(self, phase: str, progress: Progress | None = None, steps: int = 0) -> None:
        """Rewrite the progress file, and print a line where a log interval has ended. Rank 0 speaks for all."""
        if self.ranks.rank > 0:
            return
        loss = speed = None
        if progress is not None and progress.curves.loss:
            curves = progress.curves
            loss, speed = curves.loss[-1], curves.tokens_per_s[-1]
            left = (steps - progress.step) * progress.seconds / progress.step
            self.say(
                phase,
                step=f"{progress.step}/{steps}",
                done=f"{progress.step / steps:.0%}",
                loss=f"{loss:.4f}",
                grad_norm=f"{curves.grad_norm[-1]:.2f}",
                tokens_per_s=f"{speed:.0f}",
                utilisation=f"{curves.flops_utilisation[-1]:.1%}",
                memory_gb=f"{curves.memory_bytes[-1] / 1e9:.2f}",
                data_wait=f"{curves.data_wait[-1]:.1%}",
                left_s=f"{left:.0f}",
            )
        write_progress(
            self.layout.progress,
            TrialProgress(
                phase=phase,
                started=self.started,
                updated=time.time(),
                pid=os.getpid(),
                host=socket.gethostname(),
                step=0 if progress is None else progress.step,
                steps=steps,
                loss=loss,
                tokens_per_s=speed,
            ),
        )

    def say_result(self, record: TrialRecord) -> None:
        """The line of a finished trial."""
        self.say(
            "trial finished",
            validation_loss=f"{record.validation.loss[-1]:.4f}",
            **{task: f"{result.score:.3f}" for task, result in record.tasks.items()},
            elapsed_s=f"{record.elapsed_s:.1f}",
        )

    def say(self, what: str, **values: str) -> None:
        """One line of the trial's log."""
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        pairs = " ".join(f"{name}={value}" for name, value in values.items())
        name = f"{self.key.candidate:04d}/rung{self.key.rung}-seed{self.key.seed}"
        print(f"{now} {name} {what} {pairs}", flush=True)


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
    )


def _one_point(tokens_seen: int, loss: float) -> LossCurve:
    return LossCurve(np.array([tokens_seen], dtype=np.int64), np.array([loss]))


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
