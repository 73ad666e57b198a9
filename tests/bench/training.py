"""What training costs beside the arithmetic: the engine, more ranks, checkpoints, start-up.

    .venv/bin/python tests/bench/training.py

Two things are always compared in one run, turn by turn, and reported as a ratio. Prints a dated table.
"""

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from plain import train_plainly

from asiarch.hpc.config import TrainingConfig, load_config
from asiarch.hpc.training.checkpoints import CheckpointFolder
from asiarch.hpc.training.learning_rate import cosine
from asiarch.hpc.training.process_group import process_group
from asiarch.hpc.training.ranks import Meeting, Ranks
from asiarch.hpc.training.trainer import RankShare, Trainer
from asiarch.models.baselines import baseline_path
from asiarch.models.contract import load_mixer_class
from asiarch.models.language_model import LanguageModel, ModelConfig, default_ffn_width

ROUNDS, STEPS = 7, 8
SIZES = {
    "demo (2 x 64, 8 x 256 tokens)": (ModelConfig(256, 2, 64, 2), 8, 256),
    "4 x 256, 8 x 256 tokens": (ModelConfig(256, 4, 256, 4), 8, 256),
}
SCHEDULE = cosine(1e-3, 0.1, 10, 1000)
START_UP = """
import time; began = time.perf_counter()
def lap(name):
    global began
    now = time.perf_counter(); print(f"{name}={now - began:.3f}"); began = now
import torch; lap("import torch")
import asiarch.hpc.training.process_group; lap("import deepspeed")
import asiarch.hpc.train_trial; lap("import asiarch and h5py")
import sys; sys.path.insert(0, sys.argv[1])
import training as bench
from pathlib import Path
with bench.process_group(bench.Ranks(), 1):
    lap("join the process group")
    run = bench.trainer("demo (2 x 64, 8 x 256 tokens)", Path(sys.argv[2]), bench.Ranks())
    lap("model, deepspeed.initialize, flops counted, peak measured")
    run.train(1, lambda _: None, lambda: False); lap("first step")
"""


class RandomTokens:
    """Batches of random tokens."""

    def __init__(self, rows: int, length: int) -> None:
        self.shape = (rows, length + 1)

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        tokens = np.random.default_rng(step).integers(0, 256, self.shape)
        return np.ascontiguousarray(tokens[:, :-1]), np.ascontiguousarray(tokens[:, 1:])


def settings() -> TrainingConfig:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "c.yaml"
        path.write_text("name: bench\npreset: demo\nseed: 0\ntraining: {log_every: 8}\n")
        return load_config(path).training


def build(size: ModelConfig) -> LanguageModel:
    mixer = load_mixer_class(baseline_path("delta_net"))
    return LanguageModel(size, mixer, default_ffn_width(size.hidden_size))


def trainer(name: str, folder: Path, ranks: Ranks) -> Trainer:
    size, rows, length = SIZES[name]
    share = RankShare(RandomTokens(rows, length), ranks)
    return Trainer(build(size), share, SCHEDULE, settings(), CheckpointFolder(folder), 0, ranks)


def engine_against_plain_loop(name: str, folder: Path) -> list[float]:
    """Ratio of tokens a second, the trainer's over a loop of PyTorch alone, round by round."""
    size, rows, length = SIZES[name]
    ours, model, batches = trainer(name, folder, Ranks()), build(size), RandomTokens(rows, length)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), fused=True)

    def plain(first: int) -> None:
        train_plainly(model, optimizer, batches.__getitem__, SCHEDULE, range(first, first + STEPS))

    ratios = []
    for number in range(ROUNDS + 1):
        first = number * STEPS
        theirs_s = seconds(lambda first=first: plain(first))
        ours_s = seconds(
            lambda first=first: ours.train(first + STEPS, lambda _: None, lambda: False) and None
        )
        ratios.append(theirs_s / ours_s)
    return ratios[1:]  # the first round is to warm up


def share_of_plain_work(name: str, folder: Path) -> list[float]:
    """Share of the trainer's own time, round by round, in what the plain loop does too, batches and zeroing aside.

    Taken inside of the same steps, so that a machine whose speed changes from round to round says something.
    """
    run, spent, inside = trainer(name, folder, Ranks()), [0.0], [False]

    def timed(work: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if inside[0]:
                return work(*args, **kwargs)
            inside[0], began = True, time.perf_counter()
            try:
                return work(*args, **kwargs)
            finally:
                spent[0] += time.perf_counter() - began
                inside[0] = False

        return wrapped

    engine = run.engine.deepspeed
    engine.module.forward = timed(engine.module.forward)
    engine.clip_fp32_gradients = timed(engine.clip_fp32_gradients)
    engine.optimizer.step = timed(engine.optimizer.step)
    shares = []
    with mock.patch.object(torch.Tensor, "backward", timed(torch.Tensor.backward)):
        for number in range(ROUNDS + 1):
            spent[0] = 0.0
            until = (number + 1) * STEPS
            whole = seconds(lambda until=until: run.train(until, lambda _: None, lambda: False) and None)
            shares.append(spent[0] / whole)
    return shares[1:]


def seconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def scaling(name: str, folder: Path) -> float:
    """Tokens a second of two ranks over those of one, the batch shared, one thread each."""
    speeds = {}
    for world in (1, 2):
        meeting = folder / f"meet-{world}"
        meeting.mkdir()
        ranks = [
            subprocess.Popen(
                [sys.executable, __file__, "--rank", str(rank), str(world), name, str(meeting)],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            for rank in range(world)
        ]
        speeds[world] = float(ranks[0].communicate()[0])
        for process in ranks:
            process.wait()
    return speeds[2] / speeds[1]


def rank_main(rank: int, world: int, name: str, folder: Path) -> None:
    ranks = Ranks(rank, rank, world)
    with process_group(ranks, 1, Meeting(folder / "meeting") if world > 1 else None):
        run = trainer(name, folder / f"c{rank}", ranks)
        run.train(STEPS * 5, lambda _: None, lambda: False)
        if rank == 0:
            print(statistics.median(run.progress.curves.tokens_per_s[1:]))


def checkpoint_seconds(folder: Path) -> tuple[int, float, float]:
    """Parameters, seconds that training waits for a checkpoint, seconds until it is on the disk."""
    size = ModelConfig(256, 8, 384, 6)
    share = RankShare(RandomTokens(1, 64), Ranks())
    run = Trainer(build(size), share, SCHEDULE, settings(), CheckpointFolder(folder), 0, Ranks())
    run.train(1, lambda _: None, lambda: False)
    waits = seconds(run.save)
    return sum(p.numel() for p in run.model.parameters()), waits, waits + seconds(run.finish_save)


def start_up(folder: Path) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", START_UP, str(Path(__file__).parent), str(folder)],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line.split("=") for line in done.stdout.splitlines() if "=" in line and "[" not in line]
    return {name: float(value) for name, value in lines}


def main() -> None:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_name()
    print(f"{date.today()}  {device}, {os.cpu_count()} cores  torch {torch.__version__}\n")
    print("| what | figure | goal |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        with process_group(Ranks(), 1):
            for number, name in enumerate(SIZES):
                ratios = engine_against_plain_loop(name, folder / str(number))
                spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
                print(
                    f"| trainer / plain PyTorch loop, {name} | {statistics.median(ratios):.3f} ({spread}) | 0.97 |"
                )
                shares = share_of_plain_work(name, folder / f"shares{number}")
                spread = f"{min(shares):.3f} to {max(shares):.3f}"
                print(
                    f"| of its time in what that loop does too | {statistics.median(shares):.3f} ({spread}) | |"
                )
            parameters, waits, whole = checkpoint_seconds(folder / "checkpoint")
            print(f"| checkpoint of {parameters / 1e6:.1f}M parameters: training waits | {waits:.2f} s | |")
            print(f"| the same, until it is on the disk | {whole:.2f} s | 30 s |")
        for number, name in enumerate(SIZES):
            (folder / f"scaling{number}").mkdir()
            print(
                f"| 2 ranks / 1 rank, {name} | {scaling(name, folder / f'scaling{number}'):.2f} | 2 at best |"
            )
        laps = start_up(folder / "start")
        for name, spent in laps.items():
            print(f"| start-up: {name} | {spent:.2f} s | |")
        print(f"| start-up in all, without the warm process | {sum(laps.values()):.2f} s | 6 s |")


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--rank"]:
        rank_main(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], Path(sys.argv[5]))
    else:
        main()
