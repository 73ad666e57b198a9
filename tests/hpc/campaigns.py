"""Tiny real campaigns for the tests: real text, real DeepSpeed ranks, real processes."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from asiarch.hpc.journal import read_journal
from asiarch.hpc.state import CampaignState

STDLIB = Path(sysconfig.get_paths()["stdlib"])

CAMPAIGN = f"""
name: tiny
preset: demo
seed: 5
data: {{train: [{STDLIB / "json"}, {STDLIB / "email"}, {STDLIB / "http"}, {STDLIB / "asyncio"}]}}
model: {{layers: 1, hidden_size: 32, num_heads: 2}}
training: {{tokens: 24_576, batch_tokens: 1024, length: 128, log_every: 2, checkpoint_every: 1s}}
seeds: 2
rungs: [0.5, 1.0]
policy: {{name: paper}}
search: {{in_flight: 2}}
evaluation:
  validation_tokens: 2048
  test_tokens: 2048
  tasks: [mqar, s3]
  s3: {{length: 8, batch_size: 8, steps: 10, learning_rates: [6.0e-3]}}
  mqar: {{pairs: 2, vocabulary: 16, length: 16, batch_size: 8, steps: 20}}
  speed: {{lengths: [32, 64], repeats: 2, decoded: 2}}
budget: {{candidates: 3}}
"""


def write_campaign(folder: Path, text: str = CAMPAIGN) -> Path:
    """The campaign file of the tests."""
    path = folder / "tiny.yaml"
    path.write_text(text)
    return path


def command(config: Path, run_dir: Path) -> list[str]:
    """What a person would type."""
    return [str(Path(sys.executable).with_name("asiarch-hpc")), "run", str(config), "--run", str(run_dir)]


def run_to_the_end(config: Path, run_dir: Path) -> str:
    """Run a campaign undisturbed; what it printed."""
    done = subprocess.run(
        command(config, run_dir), capture_output=True, text=True, timeout=900, env=environment()
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "COLUMNS": "200", **more}


def numbers(run_dir: Path) -> dict[str, Any]:
    """Everything that a campaign found, without what depends on time: to be compared number for number."""
    state = CampaignState.replay(read_journal(run_dir))
    found: dict[str, Any] = {
        "candidates": [
            (c.id, c.name, c.parent, c.fingerprint, c.status, c.rung, c.reason)
            for c in state.candidates.values()
        ],
        "programs": [path.read_text() for path in sorted(run_dir.glob("candidates/*/architecture.py"))],
        "ranking": [
            {key: value for key, value in row.items() if key != "tokens_per_s"}
            for row in json.loads((run_dir / "ranking.json").read_text())["rows"]
        ],
    }
    for path in sorted(run_dir.glob("candidates/*/trials/*/result.h5")):
        with h5py.File(path) as file:
            for name in ("train/step", "train/loss", "train/grad_norm", "validation/loss", "test/loss"):
                found[f"{path.relative_to(run_dir)}/{name}"] = np.asarray(file[name]).tolist()
            for task in file["eval"]:
                found[f"{path.relative_to(run_dir)}/{task}"] = float(file[f"eval/{task}/score"][()])
    return found
