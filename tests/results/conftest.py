"""A record that is whole, for the tests to store, damage and read back."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from records import loss_curve, speed_table

from asiarch.results.record import TrainCurve, TrialRecord
from asiarch.results.trial import TaskResult, TrialKey

MakeRecord = Callable[..., TrialRecord]


@pytest.fixture(scope="session")
def make_record() -> MakeRecord:
    """A function that makes a finished trial; keywords replace its fields."""

    def make(**changes: Any) -> TrialRecord:
        step = np.arange(1, 6)
        noise = np.random.default_rng(0).random
        values: dict[str, Any] = {
            "key": TrialKey(candidate=7, rung=0, seed=1),
            "stage": "demo",
            "parameters": 123_456,
            "tokens": 5000,
            "config_hash": "c0ffee",
            "code_version": "0.1.0",
            "torch": "2.13.0",
            "device": "CPU, 2 Kerne zu 3 GHz, Größe ß",
            "slurm_job_id": "",
            "started": "2026-11-24T00:00:00+00:00",
            "elapsed_s": 1.0,
            "startup_s": 0.1,
            "training_s": 0.8,
            "evaluation_s": 0.1,
            "gpu_hours": 0.0,
            "outcome": "finished",
            "train": TrainCurve(
                step,
                step * 1000,
                noise(5) + 3,
                noise(5),
                noise(5),
                np.array([9, 2, 3, 4, 5.0]),
                np.full(5, 0.25),
                step * 4096,
                np.zeros(5),
                np.arange(5.0),
            ),
            "validation": loss_curve([2000, 5000], [4.5, 1 / 3]),
            "test": loss_curve([5000], [4.25]),
            "tasks": {"mqar": TaskResult(0.5, 100, 0.05), "state_tracking": TaskResult(0.25, 40, 0.0)},
            "speed": speed_table(),
        }
        return TrialRecord(**{**values, **changes})

    return make
