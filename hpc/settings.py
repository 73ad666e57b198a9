"""The few settings of a campaign that `status` shows, read without checking all of them, which takes far longer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Settings:
    """`slots`: how many trials may run at a time. `candidates`: the baselines included."""

    name: str
    executor: str
    slots: int
    candidates: int
    gpu_hours: float | None


def read_settings(path: Path) -> Settings:
    """From a campaign's frozen `campaign.yaml`.

    Raises:
        UserError: the file was changed, or another version of this package wrote it.
    """
    try:
        return _settings(yaml.load(path.read_bytes(), Loader=_LOADER))
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError):
        # says what is wrong with it
        from asiarch.hpc.config import load_frozen

        return _settings(load_frozen(path).model_dump(mode="json"))


def _settings(values: dict[str, Any]) -> Settings:
    slurm, budget = values["slurm"], values["budget"]
    executor, hours = values["executor"], budget["gpu_hours"]
    gpus, max_gpus = int(slurm["nodes"]) * int(slurm["gpus_per_node"]), slurm["max_gpus"]
    in_flight = trials_in_flight(
        int(slurm["max_in_flight"]), None if max_gpus is None else int(max_gpus), gpus
    )
    return Settings(
        name=str(values["name"]),
        executor=executor,
        slots=in_flight if executor == "slurm" else int(values["local"]["slots"]),
        candidates=len(values["baselines"]) + int(budget["candidates"]),
        gpu_hours=None if hours is None else float(hours),
    )


def trials_in_flight(max_in_flight: int, max_gpus: int | None, gpus: int) -> int:
    """How many trials of `gpus` GPUs may wait or run at a time, by both limits."""
    return max_in_flight if max_gpus is None or gpus == 0 else min(max_in_flight, max_gpus // gpus)
