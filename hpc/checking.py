"""The check as a campaign asks for it: with its model's sizes and limits, and once for each program."""

import hashlib
import os
import threading
from pathlib import Path

from asiarch.hpc.check import run_check
from asiarch.hpc.config import CampaignConfig
from asiarch.hpc.data import open_dataset
from asiarch.hpc.layout import RunLayout
from asiarch.models.check import CheckReport, CheckSettings


class Checker:
    """Checks programs for one campaign. Threads may ask at the same time; as many are served as there are cores for."""

    def __init__(self, run: RunLayout, config: CampaignConfig) -> None:
        self._run = run
        self._config = config
        self._places = threading.Semaphore(max(1, len(os.sched_getaffinity(0)) // 2))

    def check(self, program: Path, report_path: Path) -> CheckReport:
        """The report on a program, which lies in `report_path` afterwards; it is not made twice for the same bytes.

        Raises:
            CheckFailed: the check could not be run, which says nothing about the program.
        """
        stored = _stored(report_path, program)
        if stored is not None:
            return stored
        vocab_size = open_dataset(self._run.dataset(self._config)).manifest.vocab_size
        with self._places:
            return check_for(program, self._config, vocab_size, report_path)


def check_for(
    program: Path, config: CampaignConfig, vocab_size: int, report_path: Path | None = None
) -> CheckReport:
    """Check a program at the sizes of a campaign's model and under its limits. Raises CheckFailed as `run_check`."""
    model, training = config.model, config.training
    settings = CheckSettings(
        hidden_size=model.hidden_size,
        num_heads=model.num_heads,
        layers=model.layers,
        vocab_size=vocab_size,
        reference=model.match_parameters_to,
        seed=config.seed,
        document_boundaries=config.data.document_boundaries,
        length=training.length,
        precision=training.precision,
    )
    return run_check(
        program,
        settings,
        timeout_s=config.check.timeout,
        memory_gb=config.check.memory_gb,
        sandbox=config.sandbox != "off",
        report_path=report_path,
    )


def _stored(report_path: Path, program: Path) -> CheckReport | None:
    try:
        report = CheckReport.from_json(report_path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return report if report.sha256 == hashlib.sha256(program.read_bytes()).hexdigest() else None
