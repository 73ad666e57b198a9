"""A wheel holds all that a campaign needs: built, installed apart from the checkout, and run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from campaigns import CAMPAIGN, write_campaign

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


def run(*arguments: str, folder: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_campaign_runs_from_the_wheel(tmp_path: Path) -> None:
    source = tmp_path / "source"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in filter(None, tracked.decode().split("\0")):
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    run("-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), folder=source)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    run("-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel), folder=tmp_path)
    where = run(
        "-c", "import asiarch.hpc; print(asiarch.hpc.__file__)", folder=tmp_path, PYTHONPATH=str(site)
    )
    assert Path(where.strip()).is_relative_to(site)
    small = CAMPAIGN.replace("seeds: 2", "seeds: 1").replace("rungs: [0.5, 1.0]", "rungs: [1.0]")
    config = write_campaign(tmp_path, small.replace("candidates: 3", "candidates: 1"))
    start = "from asiarch.hpc.cli.main import main; main()"
    output = run(
        *("-c", start, "run", str(config), "--run", str(tmp_path / "run")),
        folder=tmp_path,
        PYTHONPATH=str(site),
    )
    assert "campaign_finished" in output
    logs = "".join(path.read_text() for path in (tmp_path / "run" / "slurm").rglob("*_log.*"))
    assert str(ROOT) + "/hpc" not in logs
