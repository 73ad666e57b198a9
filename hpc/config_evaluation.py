"""The `evaluation` section of a campaign's configuration: held-out text, synthetic and downstream tasks."""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from asiarch.hpc.config_values import AbsolutePath, Count, Positive, Share, number

TaskName = Literal[
    "mqar",
    "selective_copying",
    "induction",
    "parity",
    "s3",
    "s5",
    "recall",
    "noisy_recall",
    "fuzzy_recall",
    "memorization",
    "compression",
    "needle",
]


class Section(BaseModel):
    """A part of the configuration: unknown keys are errors, values are never changed."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TaskConfig(Section):
    """A synthetic task, and the training of the small models that are scored on it: one a learning rate.

    The model that does best on a stream that chooses is scored on another one.
    """

    length: Annotated[int, BeforeValidator(number), Field(ge=4, multiple_of=2)]
    batch_size: Annotated[int, BeforeValidator(number), Field(ge=2)]
    steps: Count
    learning_rates: Annotated[tuple[Positive, ...], Field(min_length=1)]


class MQARConfig(TaskConfig):
    """The associative recall task; see asiarch.hpc.evaluation.mqar."""

    pairs: Count
    vocabulary: Annotated[int, BeforeValidator(number), Field(ge=8)]

    @model_validator(mode="after")
    def _pairs_fit(self) -> "MQARConfig":
        if self.length < 4 * self.pairs:
            raise ValueError(
                f"length {self.length} is too short: {self.pairs} pairs and queries need {4 * self.pairs}"
            )
        if (self.vocabulary - 1) // 2 < self.pairs:
            raise ValueError(f"vocabulary {self.vocabulary} has fewer keys than {self.pairs} pairs need")
        return self


class SelectiveCopyingConfig(TaskConfig):
    """The copying task; see asiarch.hpc.evaluation.copying."""

    items: Count
    vocabulary: Annotated[int, BeforeValidator(number), Field(ge=4)]

    @model_validator(mode="after")
    def _items_fit(self) -> "SelectiveCopyingConfig":
        if self.length < 2 * self.items:
            raise ValueError(
                f"length {self.length} is too short: {self.items} items and marks need {2 * self.items}"
            )
        return self


class VocabularyTaskConfig(TaskConfig):
    """A task that has no size but its vocabulary and length; see asiarch.hpc.evaluation.mad."""

    vocabulary: Annotated[int, BeforeValidator(number), Field(ge=6)]


class RecallConfig(VocabularyTaskConfig):
    """Recall, with a share of noise; see asiarch.hpc.evaluation.mad."""

    noise: Annotated[Share, Field(lt=0.9)]

    @model_validator(mode="after")
    def _keys_come_again(self) -> "RecallConfig":
        keys = self.vocabulary // (3 if self.noise else 2)
        pairs = (self.length - round(self.noise * self.length)) // 2
        if pairs <= keys:
            raise ValueError(
                f"length {self.length} has room for {pairs} pairs: too few for one of {keys} keys to come again"
            )
        return self


class FuzzyRecallConfig(VocabularyTaskConfig):
    """Recall of runs of tokens; see asiarch.hpc.evaluation.mad."""

    pairs: Count
    longest: Count

    @model_validator(mode="after")
    def _keys_come_again(self) -> "FuzzyRecallConfig":
        if self.length < 2 * self.longest * (self.pairs + 1):
            need = 2 * self.longest * (self.pairs + 1)
            raise ValueError(
                f"length {self.length} is too short: a key that comes again needs {need} with {self.pairs} pairs"
            )
        if self.pairs > self.vocabulary // 4:
            raise ValueError(
                f"pairs {self.pairs} are more than a vocabulary of {self.vocabulary} keeps apart: at most "
                f"{self.vocabulary // 4}"
            )
        return self


class NeedleConfig(VocabularyTaskConfig):
    """A needle in a haystack, scored at `reach` times the trained length; see asiarch.hpc.evaluation.needle."""

    reach: Count


class DownstreamConfig(Section):
    """Benchmarks of lm-eval; see asiarch.hpc.evaluation.downstream.

    `examples` of each task, null for all. `copies`: the folder (HF_HOME) that they were downloaded to.
    `definitions`: a folder of tasks' YAML files of one's own.
    """

    tasks: tuple[str, ...]
    examples: Count | None
    batch_size: Count
    copies: AbsolutePath | None
    definitions: AbsolutePath | None


class SpeedConfig(Section):
    """Lengths at which speed and memory are measured, none to leave it out; see asiarch.hpc.evaluation.speed.

    `tokens`: in one forward and backward pass, the same for all candidates; a longer sequence passes alone. `repeats`:
    of each measurement. `decoded`: tokens that one repeat of decoding gives.
    """

    lengths: tuple[Count, ...]
    tokens: Count
    repeats: Annotated[int, BeforeValidator(number), Field(ge=2)]
    decoded: Count

    @field_validator("lengths")
    @classmethod
    def _rising(cls, lengths: tuple[int, ...]) -> tuple[int, ...]:
        if list(lengths) != sorted(set(lengths)):
            raise ValueError(f"lengths must rise, as in [256, 1024]; got {list(lengths)}")
        return lengths


class EvaluationConfig(Section):
    """Held-out text in tokens, the tasks of the benchmark part, and what is measured of speed."""

    validation_tokens: Count
    test_tokens: Count
    tasks: tuple[TaskName, ...]
    mqar: MQARConfig
    selective_copying: SelectiveCopyingConfig
    induction: TaskConfig
    parity: TaskConfig
    s3: TaskConfig
    s5: TaskConfig
    recall: RecallConfig
    noisy_recall: RecallConfig
    fuzzy_recall: FuzzyRecallConfig
    memorization: VocabularyTaskConfig
    compression: VocabularyTaskConfig
    needle: NeedleConfig
    downstream: DownstreamConfig
    speed: SpeedConfig

    def task(self, name: TaskName) -> TaskConfig:
        """The sizes of one task."""
        sizes: TaskConfig = getattr(self, name)
        return sizes

    @model_validator(mode="after")
    def _each_task_once(self) -> "EvaluationConfig":
        names = (*self.tasks, *self.downstream.tasks)
        if len(set(names)) < len(names):
            raise ValueError("tasks and downstream.tasks name one twice")
        return self
