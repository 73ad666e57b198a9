"""`asiarch-hpc run` before anything trains: what it refuses, and that a refusal stands in nobody's way."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from asiarch.hpc.cli.main import main
from asiarch.hpc.code_version import PACKAGES
from asiarch.hpc.config import freeze, load_config, load_frozen
from campaigns import environment, write_campaign


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


def test_what_is_wrong_with_the_llm_is_said_at_once(tmp_path: Path) -> None:
    write_campaign(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "weights").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "weights" / name).write_text("{}")
    model, llm = f"llm.model={tmp_path}", "proposers={llm: 1.0}"
    for settings, said in (
        ([f"{model}/none"], f"llm.model: there is no folder {tmp_path}/none"),
        ([f"{model}/empty"], f"llm.model: {tmp_path}/empty holds no config.json"),
        ([f"{model}/weights", "llm.python=/no/python"], "llm.python: /no/python cannot be started (No such"),
        (["llm.base_url='http://a/v1'", "llm.model=m", "llm.api_key=NO_SUCH_KEY"], "llm: the environment"),
        (
            ["llm.base_url='http://a/v1'", "llm.model=m", "llm.context=1024"],
            "llm.context: 1024 tokens do not",
        ),
    ):
        refused = run(tmp_path, llm, *settings)
        assert refused.exit_code == 2
        assert refused.output.strip().splitlines()[-1].startswith(f"asiarch-hpc: {said}")
        assert "preparing the text" not in refused.output


@pytest.mark.slow
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


@pytest.mark.parametrize("named", [True, False])
def test_the_settings_of_a_campaign_are_for_the_version_that_it_began_with(
    tmp_path: Path, named: bool
) -> None:
    """The installed version could not read them; the campaign's own is a stand-in that says what it was asked."""
    config, run_dir = write_campaign(tmp_path), tmp_path / "run"
    for package in PACKAGES:
        (run_dir / "code" / "asiarch" / package).mkdir(parents=True)
        (run_dir / "code" / "asiarch" / package / "__init__.py").touch()
    (run_dir / "code" / "asiarch" / "hpc" / "cli").mkdir()
    (run_dir / "code" / "asiarch" / "hpc" / "cli" / "main.py").write_text(
        "import json\ndef main(arguments): print(json.dumps(arguments))\n"
    )
    (run_dir / "campaign.yaml").write_text("settings: of another version\n")
    (run_dir / "journal.jsonl").write_text('{"event": "campaign_started"}\n')
    asked = [str(config), "--run", str(run_dir), "--set", "seed=3"] if named else ["--run", str(run_dir)]
    done = subprocess.run(
        [Path(sys.executable).with_name("asiarch-hpc"), "run", *asked],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["run", *asked]


def test_a_campaign_of_another_version_can_be_stopped(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "campaign.yaml").write_text(
        freeze(load_config(write_campaign(tmp_path))) + "later: a key of another version\n"
    )
    (run_dir / "journal.jsonl").write_text('{"event": "campaign_started"}\n')
    done = CliRunner().invoke(main, ["stop", "--now", "--run", str(run_dir)])
    assert done.exit_code == 2
    assert "no head is running" in done.output
