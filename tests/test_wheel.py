"""A wheel holds all that a campaign needs: built, installed in an empty environment, and run."""

import subprocess
import sys
from pathlib import Path

import pytest

from campaigns import CAMPAIGN, write_campaign

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


def run(*command: str, folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_campaign_runs_from_the_wheel_in_an_empty_environment(tmp_path: Path) -> None:
    source = tmp_path / "source"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in filter(None, tracked.decode().split("\0")):
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), folder=source)
    (wheel,) = tmp_path.glob("*.whl")
    venv = tmp_path / "venv"
    run(sys.executable, "-m", "venv", str(venv), folder=tmp_path)
    python, pinned = str(venv / "bin" / "python"), ("--constraint", str(ROOT / "constraints.txt"))
    # PyTorch first, as pinned: asked for by its dependents alone it would come with gigabytes for GPUs
    for wanted in ("torch", str(wheel)):
        run(python, "-m", "pip", "install", "--quiet", *pinned, wanted, folder=tmp_path)
    where = run(python, "-c", "import asiarch.hpc; print(asiarch.hpc.__file__)", folder=tmp_path)
    assert Path(where.strip()).is_relative_to(venv)
    count_cards = "from asiarch.agents.cognition import load_cards; print(len(load_cards()))"
    assert int(run(python, "-c", count_cards, folder=tmp_path)) >= 100
    load_prompts = "from asiarch.agents.llm.prompts import Prompts; print(*Prompts.load().texts)"
    assert "planner" in run(python, "-c", load_prompts, folder=tmp_path)
    small = CAMPAIGN.replace("seeds: 2", "seeds: 1").replace("rungs: [0.5, 1.0]", "rungs: [1.0]")
    config = write_campaign(tmp_path, small.replace("candidates: 3", "candidates: 1"))
    command = str(venv / "bin" / "asiarch-hpc")
    output = run(command, "run", str(config), "--run", str(tmp_path / "run"), folder=tmp_path)
    assert "campaign_finished" in output
    logs = "".join(path.read_text() for path in (tmp_path / "run" / "slurm").rglob("*_log.*"))
    assert str(ROOT) + "/hpc" not in logs
