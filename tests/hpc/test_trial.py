"""One trial in a process of its own: signals, kills in the middle of its evaluation, and a task that fails."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import h5py
import pytest
from lm_eval_tasks import write_definitions
from programs import PROGRAM

from asiarch.hpc.config import freeze, load_config
from asiarch.hpc.data import prepare
from asiarch.hpc.layout import RunLayout, TrialLayout
from asiarch.models.baselines import baseline_path
from asiarch.models.sandbox import offered_layers
from campaigns import CAMPAIGN, environment

pytestmark = pytest.mark.slow

RUN_TRIAL = """
import sys
from asiarch.hpc.trial import TrialTask
task = TrialTask(sys.argv[1], int(sys.argv[2]), 0, 0, attempt="0", slots=None, warm=None)
print("outcome:", task(), flush=True)
"""
DELTA_NET = baseline_path("delta_net").read_text()
SHORT = "tasks: [mqar, s3]"
# the checker never sees a batch of this shape, mqar does
FAILS_IN_MQAR = PROGRAM.format(
    output="self.proj(hidden_states) / (1 // (hidden_states.shape[:2] != (8, 16)))"
)
# sees the token that it is to predict; the checker would refuse it
LEAKS = PROGRAM.format(output="self.proj(torch.roll(hidden_states, -1, dims=1))")


def make_run(folder: Path, *changes: tuple[str, str], programs: Sequence[str] = (DELTA_NET,)) -> Path:
    """A campaign's folder with its text prepared and its candidates, as the head leaves it to a trial."""
    definitions = write_definitions(folder)
    downstream = f"downstream: {{tasks: [alphabet], definitions: {definitions}, copies: {folder}}}"
    text = CAMPAIGN.replace(SHORT, f"{SHORT}\n  {downstream}")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / "c.yaml").write_text(text)
    config = load_config(folder / "c.yaml")
    run = RunLayout(folder / "run")
    for number, program in enumerate(programs):
        run.candidate(number).mkdir(parents=True)
        run.program(number).write_text(program)
    run.config.write_text(freeze(config))
    prepare(config.data.train, run.dataset(config), seed=config.seed)
    return run.root


def start(run: Path, candidate: int = 0, **variables: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", RUN_TRIAL, str(run), str(candidate)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=run,
        env=environment() | variables,
    )


def layout(run: Path, candidate: int = 0) -> TrialLayout:
    return RunLayout(run).trial(candidate, 0, 0)


def wait_until(condition: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def has_trained(run: Path) -> bool:
    try:
        progress = json.loads(layout(run).progress.read_text())
    except FileNotFoundError:
        return False
    return bool(progress["phase"] == "training" and progress["step"] >= 4)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_leaves_a_checkpoint_within_the_grace_period(tmp_path: Path, number: signal.Signals) -> None:
    run = make_run(
        tmp_path, ("tokens: 24_576", "tokens: 100_000_000"), ("checkpoint_every: 1s", "checkpoint_every: 1h")
    )
    first = start(run)
    wait_until(lambda: has_trained(run), first)
    began = time.monotonic()
    first.send_signal(number)
    output, _ = first.communicate(timeout=60)
    assert time.monotonic() - began < 30
    assert first.returncode == 0, output
    assert output.endswith("outcome: stopped\n")
    assert list(layout(run).checkpoint.iterdir())
    reached = json.loads(layout(run).progress.read_text())["step"]
    second = start(run)
    assert second.stdout is not None
    line = next(line for line in second.stdout if " training step=" in line)
    second.kill()
    second.communicate()
    assert int(line.split("step=")[1].split("/")[0]) > reached


@pytest.mark.parametrize("mode", ["offered", "off"])
def test_what_trains_is_confined_and_knows_no_secret(tmp_path: Path, mode: str) -> None:
    run = make_run(
        tmp_path, ("tokens: 24_576", "tokens: 100_000_000"), ("budget:", f"sandbox: {mode}\nbudget:")
    )
    task = start(run, WHATEVER_TOKEN="told-to-nobody")
    wait_until(lambda: has_trained(run), task)
    trainer = json.loads(layout(run).progress.read_text())["pid"]
    status = Path(f"/proc/{trainer}/status").read_text()
    seccomp = "2" if mode == "offered" and offered_layers().seccomp else "0"
    assert f"Seccomp:\t{seccomp}\n" in status
    assert b"told-to-nobody" not in Path(f"/proc/{trainer}/environ").read_bytes()
    task.kill()  # the task alone: what trains dies with it
    task.communicate()
    deadline = time.monotonic() + 60
    while Path(f"/proc/{trainer}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def numbers(run: Path) -> dict[str, float]:
    with h5py.File(layout(run).result) as file:
        found = {
            f"{split}/{name}": file[f"{split}/{name}"][-1]
            for split in ("validation", "test")
            for name in file[split]
        }
        for task in file["eval"]:
            found |= {f"{task}/{name}": file[f"eval/{task}/{name}"][()] for name in file[f"eval/{task}"]}
        return found


def test_evaluation_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    (tmp_path / "quiet").mkdir()
    (tmp_path / "killed").mkdir()
    # a learning rate at which training diverges changes nothing: it is not the best one
    rates = ("steps: 10, learning_rates: [6.0e-3]", "steps: 10, learning_rates: [1.0e+30, 6.0e-3]")
    quiet, killed = make_run(tmp_path / "quiet"), make_run(tmp_path / "killed", rates)
    undisturbed = start(quiet)
    assert undisturbed.communicate(timeout=300)[0].endswith("outcome: finished\n")
    first = start(killed)
    parts = layout(killed).evaluation
    # the benchmark that follows takes seconds to import
    wait_until((parts / "s3.json").exists, first)
    first.kill()
    assert "diverged task=s3 learning_rate=1e+30" in first.communicate()[0]
    assert not layout(killed).result.exists()
    before = {path.name: path.stat().st_ino for path in parts.iterdir()}
    second = start(killed)
    output, _ = second.communicate(timeout=300)
    assert output.endswith("outcome: finished\n"), output
    assert {name: (parts / name).stat().st_ino for name in before} == before
    assert set(before) == {"validation.json", "test.json", "mqar.json", "s3.json"}
    assert " training step=" not in output
    assert numbers(killed) == numbers(quiet)
    with h5py.File(layout(quiet).result) as file:
        assert file["speed/length"][:].tolist() == [32, 64]
        assert file["speed/rows"][:].tolist() == [64, 32]
        assert (file["speed/train_tokens_per_s"][:] > file["speed/train_standard_error"][:]).all()
    found = numbers(quiet)
    assert found["alphabet/n"] == 13
    assert 0 < found["alphabet/standard_error"] < 0.2
    assert found["validation/windows"] == 16
    # English and Python by bytes, hardly trained: between 8 bits and what gzip does
    assert 2 < found["validation/bits_per_byte"] < 8
    assert 0 < found["validation/standard_error"] < found["validation/loss"]


def test_a_failed_task_is_a_failed_task_and_no_zero(tmp_path: Path) -> None:
    run = make_run(tmp_path, programs=[FAILS_IN_MQAR])
    trial = start(run)
    output, _ = trial.communicate(timeout=300)
    assert trial.returncode == 1
    failure = json.loads(layout(run).failure.read_text())
    assert failure["cause"] == "candidate_code"
    assert failure["detail"].startswith("PartFailedError: mqar: ZeroDivisionError")
    assert "trial failed: cause=candidate_code rank=0 PartFailedError: mqar" in output
    assert not layout(run).result.exists()
    # what could be measured is kept, beside the trained model
    assert {path.stem for path in layout(run).evaluation.iterdir()} == {
        "validation",
        "test",
        "s3",
        "alphabet",
        "speed",
    }
    assert list(layout(run).checkpoint.iterdir())
    os.remove(layout(run).failure)
    again, _ = start(run).communicate(timeout=300)
    assert "s3 step=" not in again
    assert "mqar: ZeroDivisionError" in again


def test_a_program_that_sees_the_future_is_stopped_and_the_reason_kept(tmp_path: Path) -> None:
    run = make_run(
        tmp_path,
        ("tokens: 24_576", "tokens: 163_840"),
        ("rungs: [0.5, 1.0]", "rungs: [1.0]"),
        ("tasks: [mqar, s3]", "tasks: []"),
        ("tasks: [alphabet]", "tasks: []"),
        ("budget:", "watchdog: {implausible: 0.1}\nbudget:"),
        programs=[DELTA_NET, LEAKS],
    )
    output, _ = start(run, PYTHONPROFILEIMPORTTIME="1").communicate(timeout=300)
    assert "outcome: finished\n" in output
    assert re.search(r"\| +deepspeed$", output, re.MULTILINE)
    assert "torch._dynamo" not in output, (
        "the compiler was imported, which takes seconds, and nothing is compiled"
    )
    leaking = start(run, candidate=1)
    output, _ = leaking.communicate(timeout=300)
    assert leaking.returncode == 1, output
    failure = json.loads(layout(run, 1).failure.read_text())
    assert failure["cause"] == "implausible"
    assert re.fullmatch(
        r"Implausible: the training loss \S+ at step \d+ is \d+% below the reference's \S+: a leak of later "
        r"tokens until shown otherwise",
        failure["detail"],
    )
    assert "trial failed: cause=implausible rank=0 Implausible" in output
    assert not layout(run, 1).result.exists()
    assert json.loads(layout(run, 1).progress.read_text())["step"] < 160
