"""A campaign's configuration: one YAML file over a preset, every value checked before anything runs.

The presets (`hpc/presets/*.yaml`) state every default, in the file that a person can read; the classes here hold
types and limits alone. `load_config` says for each mistake the file, the line, the key and what is allowed.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BeforeValidator,
    Field,
    ValidationError,
    model_validator,
)

from asiarch.hpc.config_errors import describe_errors
from asiarch.hpc.config_evaluation import EvaluationConfig, Section
from asiarch.hpc.config_jobs import LocalConfig, SlurmConfig
from asiarch.hpc.config_llm import LlmConfig
from asiarch.hpc.config_values import (
    AbsolutePath,
    Count,
    Duration,
    Fraction,
    Natural,
    NotNegative,
    Positive,
    Share,
    absolute,
    absolute_each,
    number,
)
from asiarch.hpc.yaml_source import YamlSource
from asiarch.models.errors import UserError

PRESETS = ("demo", "explore", "verify", "final")
Preset = Literal["demo", "explore", "verify", "final"]
ProposerName = Literal["grammar", "llm", "random"]
Baseline = Literal[
    "delta_net",
    "gated_delta_net",
    "gla",
    "kimi_delta_attention",
    "linear_attention",
    "mamba2",
    "retnet",
    "softmax_attention",
]


class DataConfig(Section):
    """`train`: stdlib, text files and folders, or one folder that `data prepare` made. `tokenizer`: bytes or a file."""

    train: Annotated[tuple[str, ...], BeforeValidator(absolute_each), Field(min_length=1)]
    tokenizer: Annotated[str, BeforeValidator(lambda v: v if v == "bytes" else absolute(v))]
    near_duplicates: bool
    document_boundaries: bool

    @property
    def prepared(self) -> Path | None:
        """The folder that `data prepare` made, where `train` is one."""
        folder = Path(self.train[0])
        return folder if len(self.train) == 1 and (folder / "manifest.json").is_file() else None


class ModelConfig(Section):
    """The language model around every mixer."""

    layers: Count
    hidden_size: Count
    num_heads: Count
    match_parameters_to: Baseline

    @model_validator(mode="after")
    def _heads_divide(self) -> "ModelConfig":
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}"
            )
        return self


class TrainingConfig(Section):
    """The training of one trial; `tokens` is the budget of the last rung, `threads` are those of a rank.

    A batch is `batch_tokens` over all ranks; a rank passes at most `micro_batch_tokens` through the model at once,
    or as many as fit its memory (`auto`, here None).
    """

    tokens: Count
    batch_tokens: Count
    length: Count
    precision: Literal["fp32", "bf16"]
    zero_stage: Annotated[int, BeforeValidator(number), Field(ge=0, le=3)]
    micro_batch_tokens: Annotated[Count | None, BeforeValidator(lambda v: None if v == "auto" else v)]
    activation_checkpointing: bool
    compile: bool
    optimizer: Literal["adamw", "muon"]
    schedule: Literal["cosine", "wsd"]
    learning_rate: Positive
    min_learning_rate_ratio: Share
    warmup: Share
    decay: Share
    weight_decay: NotNegative
    gradient_clipping: Positive
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]]
    threads: Count
    log_every: Count
    checkpoint_every: Duration

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole budget."""
        return self.tokens // self.batch_tokens

    @property
    def warmup_steps(self) -> int:
        """Optimiser steps of the whole budget's warm-up."""
        return round(self.warmup * self.total_steps)

    @model_validator(mode="after")
    def _batch_fits(self) -> "TrainingConfig":
        if self.batch_tokens % self.length:
            raise ValueError(f"batch_tokens {self.batch_tokens} is not a multiple of length {self.length}")
        if self.total_steps < 1:
            raise ValueError(f"tokens {self.tokens} is less than one batch of {self.batch_tokens} tokens")
        if self.micro_batch_tokens is not None and self.micro_batch_tokens < self.length:
            raise ValueError(
                f"micro_batch_tokens {self.micro_batch_tokens} is less than one text of length {self.length}"
            )
        if self.compile and self.zero_stage == 3:
            raise ValueError(
                "compile does not go with zero_stage 3, which exchanges parameters in the middle of the model"
            )
        if self.optimizer == "muon" and self.zero_stage == 3:
            raise ValueError("optimizer muon needs whole matrices, which zero_stage 3 cuts up: use 2 or less")
        if self.schedule == "wsd" and self.warmup + self.decay > 1:
            raise ValueError(
                f"warmup {self.warmup:g} and decay {self.decay:g} are more than the whole training"
            )
        return self


class PolicyConfig(Section):
    """Who becomes a parent; see asiarch.agents.policy."""

    name: Literal["lineage", "paper", "random"]
    islands: Count
    spread: Share
    pool: Count
    parents: Count
    refresh: Count
    cold_start: Natural

    @model_validator(mode="after")
    def _parents_fit(self) -> "PolicyConfig":
        if self.parents > self.pool:
            raise ValueError(f"parents {self.parents} is more than the pool {self.pool} they come from")
        return self


class SearchConfig(Section):
    """`in_flight`: candidates under way at a time; in deterministic mode also the lag of what proposals know."""

    mode: Literal["deterministic", "free_running"]
    in_flight: Count


class CheckConfig(Section):
    """Limits of the process that checks a program: processor time, and private memory."""

    timeout: Duration
    memory_gb: Positive


class WatchdogConfig(Section):
    """When a trial is stopped; null turns a watch off. See asiarch.hpc.training.watchdog.

    `diverged`: times the lowest loss so far. `implausible`: share below the reference's loss at the same step.
    `slower`: times slower than the reference. `memory_growth`: times what was in use early on. `no_progress`:
    time without a sign of life.
    """

    diverged: Annotated[float, BeforeValidator(number), Field(gt=1)] | None
    implausible: Fraction | None
    slower: Annotated[float, BeforeValidator(number), Field(gt=1)] | None
    memory_growth: Annotated[float, BeforeValidator(number), Field(gt=1)] | None
    no_progress: Duration | None


class TrialConfig(Section):
    """Limits of one trial; `max_restarts` counts failures of the machine, `memory_gb` is for each of its processes."""

    timeout: Duration
    max_restarts: Natural
    memory_gb: Positive | None


class BudgetConfig(Section):
    """When a campaign ends; `candidates` are those proposed and the user's own, the baselines not counted."""

    candidates: Count
    gpu_hours: Positive | None


class CampaignConfig(Section):
    """Everything that a campaign is; written to its folder as `campaign.yaml` and never changed."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
    preset: Preset
    seed: Natural
    data: DataConfig
    model: ModelConfig
    baselines: Annotated[tuple[Baseline, ...], Field(min_length=1)]
    programs: tuple[AbsolutePath, ...]
    training: TrainingConfig
    seeds: Count
    rungs: Annotated[tuple[Fraction, ...], Field(min_length=1)]
    promote: Fraction
    proposers: dict[ProposerName, Positive]
    llm: LlmConfig
    policy: PolicyConfig
    search: SearchConfig
    evaluation: EvaluationConfig
    check: CheckConfig
    executor: Literal["local", "slurm"]
    local: LocalConfig
    slurm: SlurmConfig
    trial: TrialConfig
    watchdog: WatchdogConfig
    budget: BudgetConfig
    # YAML 1.1 takes a bare off for false
    sandbox: Annotated[
        Literal["required", "offered", "off"], BeforeValidator(lambda v: "off" if v is False else v)
    ]

    @property
    def ranks(self) -> int:
        """Processes that train one trial together: one a GPU, on a cluster without GPUs one a node."""
        if self.executor == "local":
            return self.local.ranks
        return self.slurm.nodes * max(1, self.slurm.gpus_per_node)

    def rung_steps(self, rung: int) -> int:
        """Optimiser steps done at the end of a rung."""
        return round(self.rungs[rung] * self.training.total_steps)

    @model_validator(mode="after")
    def _parts_fit(self) -> "CampaignConfig":
        if self.baselines[0] != self.model.match_parameters_to:
            raise ValueError(
                f"baselines must start with model.match_parameters_to ({self.model.match_parameters_to}): "
                f"that is what all are compared with; it starts with {self.baselines[0]}"
            )
        if len(set(self.baselines)) < len(self.baselines):
            raise ValueError("baselines names one twice")
        if len(set(self.programs)) < len(self.programs):
            raise ValueError("programs names one twice")
        if len(self.programs) > self.budget.candidates:
            raise ValueError(
                f"programs has {len(self.programs)} files, and budget.candidates, which counts them, is "
                f"{self.budget.candidates}"
            )
        self._ranks_share_batches()
        if self.executor == "slurm" and self.slurm.trials_in_flight < self.seeds:
            raise ValueError(
                f"slurm.max_in_flight and max_gpus allow {self.slurm.trials_in_flight} trials at a time, and a "
                f"candidate job has {self.seeds} (seeds)"
            )
        if self.search.mode == "deterministic" and self.watchdog.slower is not None:
            raise ValueError(
                "watchdog.slower decides by the clock, which a deterministic search must not: set it to null"
            )
        if list(self.rungs) != sorted(set(self.rungs)) or self.rungs[-1] != 1.0:
            raise ValueError(f"rungs must rise and end at 1.0, as in [0.1, 0.3, 1.0]; got {list(self.rungs)}")
        steps = [self.rung_steps(rung) for rung in range(len(self.rungs))]
        if steps[0] < 1 or len(set(steps)) < len(steps):
            raise ValueError(
                f"rungs come to {steps} training steps: too small or too close for training.tokens"
            )
        shortest = min(self.evaluation.validation_tokens, self.evaluation.test_tokens)
        if shortest < self.training.length:
            raise ValueError(f"evaluation: {shortest} tokens are less than one text of training.length")
        if not math.isclose(sum(self.proposers.values()), 1.0, abs_tol=1e-6):
            raise ValueError(f"proposers: the shares sum to {sum(self.proposers.values()):g}, not to 1")
        if "llm" in self.proposers and not self.llm.is_there:
            raise ValueError("proposers has llm: name the folder of its weights in llm.model")
        return self

    def _ranks_share_batches(self) -> None:
        rows = {"training.batch_tokens / training.length": self.training.batch_tokens // self.training.length}
        for task in self.evaluation.tasks:
            rows[f"evaluation.{task}.batch_size"] = self.evaluation.task(task).batch_size
        for name, count in rows.items():
            if count % self.ranks:
                raise ValueError(f"{name} is {count} rows, which {self.ranks} ranks cannot share equally")


def load_config(path: Path, overrides: Sequence[str] = ()) -> CampaignConfig:
    """Read a campaign's YAML over the preset that it names.

    Args:
        overrides: `key.path=value` texts, the value in YAML; they win over the file.

    Raises:
        UserError: one line for each thing that is wrong, with file, line and key.
    """
    source = YamlSource.read(path)
    given = source.data
    for override in overrides:
        given = _merge(given, _override(override))
    preset = given.get("preset")
    if preset not in PRESETS:
        raise UserError(
            f"{source.where(('preset',))}: preset: need one of {', '.join(PRESETS)}, not {preset!r}"
        )
    config = _validated(_merge(preset_values(preset), given), source)
    for place, program in enumerate(config.programs):
        if not Path(program).is_file():
            raise UserError(f"{source.where(('programs', place))}: programs: there is no file {program}")
    return config


def load_frozen(path: Path) -> CampaignConfig:
    """Read the `campaign.yaml` of a campaign's folder: it states everything, whatever presets say today.

    Raises:
        UserError: the file was changed, or another version of this package wrote it.
    """
    source = YamlSource.read(path)
    return _validated(source.data, source)


def _validated(values: Mapping[str, Any], source: YamlSource) -> CampaignConfig:
    try:
        return CampaignConfig.model_validate(values)
    except ValidationError as error:
        raise UserError(describe_errors(error, source, CampaignConfig)) from None


def preset_text(name: str) -> str:
    """The commented YAML of a preset."""
    return (resources.files("asiarch.hpc.presets") / f"{name}.yaml").read_text(encoding="utf-8")


def preset_values(name: str) -> dict[str, Any]:
    """A preset's values: all keys but name, preset and seed."""
    values: dict[str, Any] = yaml.safe_load(preset_text(name))
    return values


def freeze(config: CampaignConfig) -> str:
    """The resolved configuration as YAML; loading it gives an equal configuration."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, width=110)


def config_hash(config: CampaignConfig) -> str:
    """SHA-256 of what determines a trial's numbers: not of names, places, budgets or limits."""
    parts = {"seed", "data", "model", "training", "rungs", "evaluation"}
    places = {"threads", "log_every", "checkpoint_every"}
    places |= {"micro_batch_tokens", "activation_checkpointing", "compile"}
    values = config.model_dump(mode="json", include=parts)
    for place in ("copies", "batch_size"):
        del values["evaluation"]["downstream"][place]
    del values["evaluation"]["speed"]
    values["training"] = {key: value for key, value in values["training"].items() if key not in places}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _override(text: str) -> dict[str, Any]:
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise UserError(f"--set {text}: need KEY=VALUE, as in --set training.tokens=1e6")
    try:
        nested: Any = yaml.safe_load(value)
    except yaml.YAMLError:
        raise UserError(f"--set {text}: the value is not YAML") from None
    for key in reversed(path.split(".")):
        nested = {key: nested}
    return dict(nested)


# choices that are given whole: a file that names its proposers means these and no others
_REPLACED = ("proposers", "sampling")


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if value is None and isinstance(below, Mapping):
            continue  # a section whose lines are all commented out
        deep = isinstance(below, Mapping) and isinstance(value, Mapping) and key not in _REPLACED
        merged[key] = _merge(below, value) if deep else value  # type: ignore[arg-type]
    return merged
