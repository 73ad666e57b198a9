"""Training over one, two and four real ranks: the same losses, exact resume, and a rank that dies alone."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rank_worker import LOST_RANK

from asiarch.hpc.training.checkpoints import CheckpointFolder

pytestmark = pytest.mark.slow

WORKER = Path(__file__).with_name("rank_worker.py")
SETTINGS = [(stage, precision, "adamw") for precision in ("fp32", "bf16") for stage in range(4)]
SETTINGS += [(0, "fp32", "muon"), (2, "bf16", "muon")]


def start(folder: Path, world: int, plans: list[dict[str, Any]]) -> "list[subprocess.Popen[str]]":
    """The ranks of one process group, at work on a list of trainings."""
    file = folder / f"plan-{time.monotonic_ns()}.json"
    file.write_text(json.dumps(plans))
    return [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(rank), str(world), str(file)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]


def run(folder: Path, world: int, plans: list[dict[str, Any]]) -> None:
    ranks = start(folder, world, plans)
    errors = [process.communicate(timeout=900)[1][-2000:] for process in ranks]
    assert [process.returncode for process in ranks] == [0] * world, "\n----\n".join(errors)


def found(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def assert_close(one: dict[str, Any], two: dict[str, Any], tolerance: float) -> None:
    assert one["step"] == two["step"]
    assert one["tokens"] == two["tokens"]
    for name in ("loss", "grad_norm"):
        np.testing.assert_allclose(one[name], two[name], rtol=tolerance)


@pytest.fixture(scope="module")
def alone_with(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """For each optimiser, one rank at stage 0 in fp32: what all others are compared with."""
    folder = tmp_path_factory.mktemp("alone")
    plans = {
        name: {
            "folder": str(folder / name),
            "stage": 0,
            "optimizer": name,
            "until": 24,
            "out": str(folder / f"{name}.json"),
        }
        for name in ("adamw", "muon")
    }
    run(folder, 1, list(plans.values()))
    return {name: found(Path(str(plan["out"]))) for name, plan in plans.items()}


@pytest.fixture
def alone(alone_with: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return alone_with["adamw"]


@pytest.mark.parametrize("world", [1, 2, 4])
def test_losses_do_not_depend_on_ranks_stages_or_accumulation(
    alone_with: dict[str, dict[str, Any]], tmp_path: Path, world: int
) -> None:
    settings = [("adamw", stage, tokens) for stage in range(4) for tokens in (16, 1024)]
    settings += [("muon", stage, tokens) for stage, tokens in ((0, 16), (1, 1024), (2, 16))]
    plans: list[dict[str, Any]] = []
    for optimizer, stage, tokens in settings:
        name = f"{optimizer}-{stage}-{tokens}"
        plan: dict[str, Any] = {
            "optimizer": optimizer,
            "stage": stage,
            "micro_batch_tokens": tokens,
            "until": 24,
        }
        plans.append(plan | {"folder": str(tmp_path / f"c{name}"), "out": str(tmp_path / f"o{name}")})
    run(tmp_path, world, plans)
    for plan in plans:
        assert_close(found(Path(plan["out"])), alone_with[plan["optimizer"]], tolerance=2e-5)
    for alone in alone_with.values():
        assert alone["loss"][-1] < 0.7 * alone["loss"][0]


@pytest.mark.parametrize("world", [1, 2])
def test_stopped_and_resumed_training_is_the_same_bit_for_bit(tmp_path: Path, world: int) -> None:
    """With dropout, a buffer, and a stop in the middle of a log interval that one rank alone asked for."""
    plans: list[dict[str, Any]] = []
    for stage, precision, optimizer in SETTINGS:
        name = f"{stage}-{precision}-{optimizer}"
        common = {"stage": stage, "precision": precision, "optimizer": optimizer, "dropout": 0.2, "until": 24}
        whole, parts = str(tmp_path / f"whole{name}"), str(tmp_path / f"parts{name}")
        plans.append({**common, "folder": whole, "out": whole + ".json"})
        plans += [{**common, "folder": parts, "stop_at": stop} for stop in (3, 10)]
        plans.append({**common, "folder": parts, "out": parts + ".json"})
    run(tmp_path, world, plans)
    for setting in SETTINGS:
        name = "-".join(map(str, setting))
        assert found(tmp_path / f"parts{name}.json") == found(tmp_path / f"whole{name}.json"), name


def test_training_goes_on_at_another_number_of_ranks_and_another_stage(
    alone_with: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    topologies = [(1, 0), (2, 1), (4, 3), (1, 2), (2, 0), (2, 3)]
    for number, (world, stage) in enumerate(topologies):
        last = number == len(topologies) - 1
        plans: list[dict[str, Any]] = []
        for name in alone_with:
            # Muon has no stage 3
            plan: dict[str, Any] = {"stage": min(stage, 2) if name == "muon" else stage, "until": 24}
            plan |= {"optimizer": name, "folder": str(tmp_path / name)}
            plans.append(
                plan | ({"out": str(tmp_path / f"{name}.json")} if last else {"stop_at": 3 + 4 * number})
            )
        run(tmp_path, world, plans)
    for name, alone in alone_with.items():
        assert_close(found(tmp_path / f"{name}.json"), alone, tolerance=5e-5)


def test_a_rank_killed_alone_ends_the_others_soon_and_training_goes_on(
    alone: dict[str, Any], tmp_path: Path
) -> None:
    plan = {"folder": str(tmp_path / "c"), "stage": 1, "until": 24}
    first, second = start(tmp_path, 2, [plan | {"die_at": 13, "checkpoint_every": 0}])
    assert second.wait(timeout=120) == -signal.SIGKILL
    began = time.monotonic()
    assert first.wait(timeout=30) == LOST_RANK
    assert time.monotonic() - began < 30
    assert first.stderr is not None
    assert "lost a rank" in first.stderr.read()
    steps = sorted(int(path.name[5:]) for path in (tmp_path / "c").glob("step-*"))
    assert len(steps) == 2
    assert steps[-1] in (12, 13)
    run(tmp_path, 2, [plan | {"out": str(tmp_path / "out")}])
    assert_close(found(tmp_path / "out"), alone, tolerance=2e-5)


def test_kills_at_random_moments_change_nothing(tmp_path: Path) -> None:
    """A checkpoint after each step, so that many kills hit the middle of one."""
    plan = {"folder": str(tmp_path / "c"), "stage": 2, "until": 24, "dropout": 0.2, "checkpoint_every": 0}
    run(tmp_path, 2, [plan | {"folder": str(tmp_path / "whole"), "out": str(tmp_path / "whole.json")}])
    rng = np.random.default_rng(0)
    for _ in range(4):
        ranks = start(tmp_path, 2, [plan])
        newest = CheckpointFolder(tmp_path / "c").latest()
        deadline = time.monotonic() + 60
        while CheckpointFolder(tmp_path / "c").latest() == newest and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(float(rng.uniform(0, 0.15)))
        for process in ranks:
            process.kill()
        for process in ranks:
            process.wait()
    run(tmp_path, 2, [plan | {"out": str(tmp_path / "out")}])
    assert found(tmp_path / "out") == found(tmp_path / "whole.json")
