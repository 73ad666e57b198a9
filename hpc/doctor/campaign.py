"""A configuration's own needs: its text, its benchmarks, a place to write."""

from collections.abc import Iterator
from pathlib import Path

from asiarch.hpc.config import CampaignConfig
from asiarch.hpc.config_values import STDLIB
from asiarch.hpc.doctor.findings import Finding
from asiarch.hpc.storage import require_storage
from asiarch.models.errors import UserError


def examine_campaign(config: CampaignConfig, folder: Path) -> Iterator[Finding]:
    """Look at what a campaign reads and where it writes; `folder` is where its own folder is to be."""
    yield _data(config)
    yield _folder(folder)
    if config.evaluation.downstream.tasks:
        yield _benchmarks(config)


def _data(config: CampaignConfig) -> Finding:
    missing = [
        path
        for path in (*config.data.train, config.data.tokenizer)
        if path not in (STDLIB, "bytes") and not Path(path).exists()
    ]
    if missing:
        return Finding(
            "data", "error", f"not there: {', '.join(missing)}", "mend data.train or data.tokenizer"
        )
    if config.data.prepared is not None:
        return Finding("data", "ok", f"prepared in {config.data.prepared}")
    return Finding("data", "ok", "there; the head prepares it when it starts")


def _folder(folder: Path) -> Finding:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        require_storage(folder)
    except OSError as error:
        return Finding(
            "folder", "error", f"{folder}: {error}", "give a folder that can be written: --run DIR"
        )
    return Finding("folder", "ok", f"{folder} can be written")


def _benchmarks(config: CampaignConfig) -> Finding:
    try:
        from asiarch.hpc.evaluation.downstream import require_tasks

        require_tasks(config.evaluation.downstream)
    except (UserError, ImportError) as error:
        remedy = "pip install 'asiarch-hpc[eval]'" if isinstance(error, ImportError) else "see the message"
        return Finding("benchmarks", "error", str(error), remedy)
    return Finding("benchmarks", "ok", ", ".join(config.evaluation.downstream.tasks))
