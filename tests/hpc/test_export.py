"""`asiarch-hpc export`: a trained candidate becomes a folder that transformers loads, with the loss measured."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from asiarch.hpc.cli.main import main
from asiarch.hpc.config import load_frozen
from asiarch.hpc.data import evaluation_windows, open_dataset
from asiarch.hpc.layout import RunLayout
from asiarch.results.schema import read_trial
from asiarch.results.trial import TrialKey
from campaigns import STDLIB, run_to_the_end, write_campaign

CAMPAIGN = f"""
name: tiny
preset: demo
seed: 5
data: {{train: [{STDLIB / "json"}, {STDLIB / "email"}, {STDLIB / "http"}, {STDLIB / "asyncio"}]}}
model: {{layers: 2, hidden_size: 32, num_heads: 2, match_parameters_to: gated_delta_net}}
baselines: [gated_delta_net]
training: {{tokens: 8192, batch_tokens: 1024, length: 128, log_every: 2}}
seeds: 2
rungs: [1.0]
search: {{in_flight: 1}}
evaluation: {{validation_tokens: 2048, test_tokens: 2048, tasks: [mqar],
              mqar: {{pairs: 2, vocabulary: 16, length: 16, batch_size: 8, steps: 4}}}}
budget: {{candidates: 1}}
"""


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("campaign")
    run_to_the_end(write_campaign(folder, CAMPAIGN), folder / "run")
    return folder / "run"


def export(run_dir: Path, *arguments: object) -> Result:
    return CliRunner().invoke(main, ["export", *map(str, arguments), "--run", str(run_dir)])


def windows(run_dir: Path) -> tuple[np.ndarray, np.ndarray]:
    run = RunLayout(run_dir)
    config = load_frozen(run.config)
    dataset = open_dataset(run.dataset(config))
    return evaluation_windows(dataset.split("validation"), length=128, tokens=2048)


@pytest.mark.slow
def test_an_exported_candidate_has_the_campaigns_loss_and_generates(run_dir: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path / "model"
    done = export(run_dir, 0, folder)
    assert done.exit_code == 0, done.output
    results = {seed: read_trial(TrialKey(0, 0, seed).result_path(run_dir)) for seed in (0, 1)}
    best = min(results.values(), key=lambda record: record.validation.loss[-1])
    assert f"seed {best.key.seed}" in done.output
    assert "generates with the mixer's cache" in done.output

    model: Any = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    inputs, targets = (torch.from_numpy(part) for part in windows(run_dir))
    with torch.no_grad():
        logits = model(inputs).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    assert float(loss) == pytest.approx(float(best.validation.loss[-1]), rel=1e-5)
    assert sum(p.numel() for p in model.parameters()) == best.parameters

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    text = "def é(\n\t'  x')"
    given = tokenizer(text, return_tensors="pt")
    assert given["input_ids"][0].tolist() == list(text.encode())
    assert tokenizer.decode(given["input_ids"][0]) == text
    written = model.generate(**given, max_new_tokens=6, do_sample=False, eos_token_id=None)
    slow = model.generate(**given, max_new_tokens=6, do_sample=False, eos_token_id=None, use_cache=False)
    assert written.tolist() == slow.tolist()

    card = (folder / "README.md").read_text()
    for part in ("asiarch-hpc", "gated_delta_net", f"{best.test.loss[-1]:.4f}", "mqar", "trust_remote_code"):
        assert part in card
    assert (
        json.loads((folder / "config.json").read_text())["program"]
        == (folder / "architecture.py").read_text()
    )
    assert not [path for path in tmp_path.iterdir() if path != folder]


@pytest.mark.slow
def test_what_cannot_be_exported_is_one_line(run_dir: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    cases = [
        ((0, taken), r"is there already"),
        ((7, tmp_path / "a"), r"no candidate 7: there are 0 to"),
        ((0, tmp_path / "a", "--seed", 4), r"no finished trial of seed 4 at rung 0: 0, 1"),
    ]
    for arguments, message in cases:
        refused = export(run_dir, *arguments)
        assert (refused.exit_code, message in refused.output) == (2, True), refused.output
        assert refused.output.count("\n") == 1
    other = tmp_path / "run"
    shutil.copytree(run_dir, other, ignore=shutil.ignore_patterns("checkpoint"))
    gone = export(other, 0, tmp_path / "a")
    assert (gone.exit_code, "the weights of this trial are gone" in gone.output) == (2, True), gone.output
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
def test_a_model_that_does_not_give_the_recorded_loss_is_not_written(run_dir: Path, tmp_path: Path) -> None:
    """The program is changed behind the campaign's back: twice the output of each mixer."""
    other = tmp_path / "run"
    shutil.copytree(run_dir, other)
    program = RunLayout(other).program(0)
    program.write_text(program.read_text().replace("return self.o_proj(", "return 2 * self.o_proj("))
    refused = export(other, 0, tmp_path / "a")
    assert refused.exit_code == 2
    assert "the loaded model's validation loss is" in refused.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
