"""`asiarch-hpc run` before anything trains: what it refuses, and that a refusal stands in nobody's way."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from asiarch.hpc.cli.main import main
from asiarch.hpc.config import load_frozen
from campaigns import write_campaign


def run(folder: Path, *overrides: str) -> Result:
    arguments = ["run", str(folder / "tiny.yaml"), "--run", str(folder / "run")]
    return CliRunner().invoke(main, [*arguments, *(word for text in overrides for word in ("--set", text))])


@pytest.fixture(autouse=True)
def no_traces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # what the command changes in its own process
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONSAFEPATH", "")
    monkeypatch.setenv("PYTHONPATH", "")


def test_slurm_without_slurm_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    write_campaign(tmp_path)
    refused = run(tmp_path, "executor=slurm")
    assert refused.exit_code == 2
    assert (
        refused.output.strip()
        .splitlines()[-1]
        .startswith("asiarch-hpc: executor is slurm, and sbatch and squeue and scancel cannot be found")
    )


def test_a_campaign_that_was_refused_takes_other_settings(tmp_path: Path) -> None:
    write_campaign(tmp_path)
    for task in ("no_such_task", "neither_this"):
        refused = run(tmp_path, f"evaluation.downstream.tasks=[{task}]")
        assert refused.exit_code == 2
        assert f"has no task {task!r}" in refused.output
        stale = tmp_path / "run" / "code" / "asiarch" / "hpc" / "stale.py"
        assert not stale.exists()  # the copy of the code is that of the last try
        stale.touch()
        assert load_frozen(tmp_path / "run" / "campaign.yaml").evaluation.downstream.tasks == (task,)
