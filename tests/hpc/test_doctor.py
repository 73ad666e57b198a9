"""The doctor sees what it is there to see: each examination with something wrong put before it."""

import json
import re
from importlib import import_module
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from asiarch.hpc.cli.init import PROFILES
from asiarch.hpc.cli.main import main
from asiarch.hpc.config import PRESETS, load_config
from asiarch.hpc.doctor import operators
from asiarch.hpc.doctor.slurm_time import slurm_seconds
from campaigns import write_campaign

run_command = import_module("asiarch.hpc.cli.run")


def test_sound_operators_are_found_sound() -> None:
    findings = list(operators.examine_operators())
    assert len(findings) >= 12
    assert {finding.level for finding in findings} == {"ok"}


@pytest.mark.parametrize("wrong", ["value", "gradient", "nan"])
def test_an_operator_that_is_a_little_wrong_is_found(wrong: str) -> None:
    def square(x: Tensor) -> Tensor:
        return x * x

    def broken(x: Tensor) -> Tensor:
        if wrong == "value":
            return x * x * 1.001
        if wrong == "nan":
            return x * x + torch.where(torch.arange(x.numel()) == 7, torch.nan, 0.0)
        return x.detach() * x.detach() * 0.002 + x * x * 0.998

    x, device = torch.linspace(1, 2, 20), torch.device("cpu")
    assert operators.operator_error(square, square, [x], device) < operators.BOUNDS[torch.float32]
    assert operators.operator_error(broken, square, [x], device) > operators.BOUNDS[torch.float32]


@pytest.mark.parametrize("command", ["doctor", "run"])
def test_a_wrong_operator_is_named_with_its_error(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = operators.delta_rule

    def faulty(*tensors: Tensor) -> tuple[Tensor, Tensor | None]:
        output, state = sound(*tensors)
        return output * (1 + 0.01 * (torch.arange(output.shape[1]) > 100)).view(-1, 1, 1), state

    monkeypatch.setattr(operators, "delta_rule", faulty)
    monkeypatch.setattr(run_command, "_has_gpu", lambda: True)
    monkeypatch.setattr(run_command, "use_frozen_code", lambda *_, **__: None)
    monkeypatch.chdir(tmp_path)
    arguments = ["--kernels"] if command == "doctor" else [str(write_campaign(tmp_path)), "--run", "campaign"]
    result = CliRunner().invoke(main, [command, *arguments])
    assert result.exit_code == (1 if command == "doctor" else 2)
    assert re.search(r"operator delta_rule: error \d\.\de-03 on \w+, 1e-04 is allowed", result.output), (
        result.output
    )
    assert "operator gated_delta_rule: error" not in result.output or command == "doctor"
    assert not (tmp_path / "campaign" / "candidates" / "0001").exists()


def test_a_campaign_without_its_text_fails_the_examination(tmp_path: Path) -> None:
    config = write_campaign(tmp_path)
    sound = CliRunner().invoke(main, ["doctor", str(config), "--run", str(tmp_path / "run"), "--json"])
    assert sound.exit_code == 0, sound.output
    assert {"data", "folder", "versions"} <= {finding["what"] for finding in json.loads(sound.stdout)}
    bad = CliRunner().invoke(
        main, ["doctor", str(config), "--run", str(tmp_path / "run"), "--set", "data.train=/no/where"]
    )
    assert bad.exit_code == 1
    assert "ERROR    data: not there: /no/where" in bad.output


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1-02:03:04", 93784), ("00:30:00", 1800), ("UNLIMITED", None), ("7-00:00:00", 604800)],
)
def test_slurm_s_times(text: str, seconds: int | None) -> None:
    assert slurm_seconds(text) == seconds


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_goes_with_every_preset(tmp_path: Path, profile: str, preset: str) -> None:
    out = tmp_path / "campaign.yaml"
    done = CliRunner().invoke(
        main, ["init", "mine", "--preset", preset, "--profile", profile, "--out", str(out)]
    )
    assert done.exit_code == 0, done.output
    settings = ["data.train=stdlib"] if preset != "demo" else []
    config = load_config(out, settings)
    assert config.executor == "slurm"
    assert config.slurm.max_in_flight == {"a100": 32, "h100": 6, "preemptible": 64, "cpu": 32}[profile]


def test_a_profile_of_one_s_own_and_one_that_is_not_there(tmp_path: Path) -> None:
    own = tmp_path / "site.yaml"
    own.write_text("partition: mine   # ours\ntime: 30m\n")
    out = tmp_path / "campaign.yaml"
    arguments = ["init", "mine", "--out", str(out), "--profile"]
    missing = CliRunner().invoke(main, [*arguments, "nowhere"])
    assert missing.exit_code == 2
    assert "--profile nowhere: no such file, and none of a100" in missing.output
    assert CliRunner().invoke(main, [*arguments, str(own)]).exit_code == 0
    config = load_config(out)
    assert (config.slurm.partition, config.slurm.time, config.slurm.nodes) == ("mine", 1800, 1)
