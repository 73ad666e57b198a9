"""A check in a limited child process, and the command line around it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from programs import PROGRAM
from rich.console import Console

from asiarch.hpc.check import CheckFailed, child_environment, run_check
from asiarch.hpc.cli.check import check, print_report
from asiarch.models.baselines import baseline_path
from asiarch.models.check import CheckReport, CheckResult, CheckSettings
from asiarch.models.check.program import CHECK_NAMES
from asiarch.models.contract import load_mixer_class
from asiarch.models.language_model import ModelConfig, reference_parameters


@pytest.fixture
def write(tmp_path: Path):
    """Write a program whose forward returns the given expression."""

    def write(output: str, before: str = "") -> Path:
        file = tmp_path / "architecture.py"
        file.write_text(before + PROGRAM.format(output=output))
        return file

    return write


def test_an_honest_program_is_accepted_with_a_line_for_each_check(write) -> None:
    file = write("self.proj(hidden_states)")
    result = CliRunner().invoke(check, [str(file)])
    lines = result.stdout.splitlines()
    assert result.exit_code == 0, result.output
    assert len(lines) == len(CHECK_NAMES) + 1
    assert all(line.startswith("pass  ") for line in lines[:-1])
    assert lines[-1].startswith(f"{file}: accepted")
    assert "\x1b" not in result.stdout


def test_a_refusal_has_exit_code_1_and_json(write) -> None:
    file = write("self.proj(hidden_states)", before="import os\n")
    result = CliRunner().invoke(check, [str(file), "--json"])
    assert result.exit_code == 1
    report = CheckReport.from_json(result.stdout)
    assert [refusal.name for refusal in report.refusals] == ["policy"]
    assert json.loads(result.stdout)["file"] == str(file)


@pytest.mark.slow
def test_a_campaign_is_checked_for_at_its_sizes(write, tmp_path: Path) -> None:
    config = tmp_path / "campaign.yaml"
    config.write_text("name: small\npreset: demo\nseed: 0\nmodel: {hidden_size: 32, layers: 3}\n")
    result = CliRunner().invoke(
        check, [str(write("self.proj(hidden_states)")), "--config", str(config), "--json"]
    )
    assert result.exit_code == 0, result.output
    (size,) = (c for c in CheckReport.from_json(result.stdout).checks if c.name == "size")
    sizes = ModelConfig(CheckSettings().vocab_size, layers=3, hidden_size=32, num_heads=2)
    reference = load_mixer_class(baseline_path("delta_net"))
    assert size.measured["target"] == reference_parameters(sizes, reference)


def test_refusals_and_what_was_not_run_are_told_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    checks = [
        CheckResult("policy", False, {"findings": 1}, "a.py:1: imports os [not allowed]"),
        CheckResult.not_run("construct", "refused by policy"),
    ]
    print_report(CheckReport.of("a.py", "0" * 64, 0.25, checks), Console(width=20))
    assert capsys.readouterr().out.splitlines() == [
        "FAIL  policy            findings 1",
        "      a.py:1: imports os [not allowed]",
        "skip  construct         not run: refused by policy",
        "a.py: refused by policy   0.2 s",
    ]


def test_a_program_that_waits_for_ever_is_stopped_too(write) -> None:
    file = write("self.proj(hidden_states)", before="import torch\ntorch.futures.Future().wait()\n")
    assert "not done after 4 s" in run_check(file, timeout_s=1).checks[0].message


def test_no_such_file_is_one_line_and_not_a_verdict(tmp_path: Path) -> None:
    result = CliRunner().invoke(check, [str(tmp_path / "nowhere.py")])
    assert isinstance(result.exception, CheckFailed)
    assert str(result.exception).count("\n") == 0
    assert "nowhere.py: no such file" in str(result.exception)


def test_a_loop_that_never_ends_is_stopped_and_leaves_nothing_behind(
    write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asiarch.hpc.check.PATIENCE", 100)  # so that the machine's load does not decide
    file = write("self.proj(hidden_states)", before="print('in a loop', flush=True)\nwhile True:\n    pass\n")
    report = run_check(file, timeout_s=1, report_path=tmp_path / "check.json")
    assert [(result.name, result.passed) for result in report.checks] == [("runs", False)]
    assert "still running after 1 s of work" in report.checks[0].message
    assert "in a loop" in report.checks[0].message
    assert CheckReport.from_json((tmp_path / "check.json").read_text()) == report
    running = [Path(f"/proc/{pid}/cmdline") for pid in os.listdir("/proc") if pid.isdigit()]
    assert not any(str(file).encode() in line.read_bytes() for line in running if line.exists())


def test_a_program_that_takes_too_much_memory_is_refused(write) -> None:
    report = run_check(write("self.proj(hidden_states) + torch.ones(25 * 2**30).sum()"), memory_gb=3)
    refusal = report.refusals[0]
    assert refusal.name == "forward_backward"
    assert "at line 11" in refusal.message
    assert "100" in refusal.message or "alloc" in refusal.message


def test_a_process_that_dies_is_a_refusal_with_the_reason(write) -> None:
    # recursion in C, which no Python exception stops
    nest = "x = ()\nfor _ in range(500_000):\n    x = (x,)\nhash(x)\n"
    report = run_check(write("self.proj(hidden_states)", before=nest))
    assert [result.name for result in report.checks] == ["runs"]
    assert "SIGSEGV" in report.checks[0].message


def test_the_child_sees_no_secret_and_no_home(write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "1234")
    environment = child_environment(tmp_path)
    assert "SECRET_TOKEN" not in environment
    assert environment["HOME"] == str(tmp_path)
    assert environment["PYTHONSAFEPATH"] == "1"


def test_a_child_that_cannot_start_is_not_a_verdict(write, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write("self.proj(hidden_states)")
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(CheckFailed, match=r"(cannot|could not) start(?s:.*)/nowhere/python"):
        run_check(file)


def test_a_checker_without_memory_for_torch_is_not_a_verdict(write) -> None:
    with pytest.raises(CheckFailed, match="could not start"):
        run_check(write("self.proj(hidden_states)"), memory_gb=0.03)


def test_settings_that_fit_no_model_are_not_a_verdict(write) -> None:
    with pytest.raises(CheckFailed, match="no baseline is called 'nonsense'"):
        run_check(write("self.proj(hidden_states)"), CheckSettings(reference="nonsense"))


def test_the_head_checks_without_importing_torch() -> None:
    code = (
        "import sys, asiarch.hpc.cli.check, asiarch.models.contract, asiarch.models.check\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True)
