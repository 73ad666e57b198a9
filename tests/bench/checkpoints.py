"""What a checkpoint that any number of ranks can load costs: ours, and DeepSpeed's with its conversion.

    .venv/bin/python tests/bench/checkpoints.py

The same model at ZeRO stage 2 on one rank, fp32, in one run. Prints a dated table.
"""

import os
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

import torch
from training import SCHEDULE, RandomTokens, build, cpu_name, seconds, settings

from asiarch.hpc.training.checkpoints import CheckpointFolder, load_checkpoint
from asiarch.hpc.training.process_group import process_group
from asiarch.hpc.training.ranks import Ranks
from asiarch.hpc.training.trainer import RankShare, Trainer
from asiarch.models.language_model import ModelConfig

SIZE = ModelConfig(256, 8, 384, 6)


def main() -> None:
    with tempfile.TemporaryDirectory() as place, process_group(Ranks(), 1):
        folder = Path(place)
        config = settings().model_copy(update={"zero_stage": 2})
        share = RankShare(RandomTokens(1, 64), Ranks())
        run = Trainer(build(SIZE), share, SCHEDULE, config, CheckpointFolder(folder / "own"), 0, Ranks())
        run.train(1, lambda _: None, lambda: False)
        parameters = sum(p.numel() for p in run.model.parameters()) / 1e6
        print(f"{date.today()}  {cpu_name()}, {os.cpu_count()} cores  torch {torch.__version__}\n")
        print(f"{parameters:.1f}M parameters at stage 2, one rank\n\n| what | seconds | MB |\n|---|---|---|")
        waits = seconds(run.save)
        whole = waits + seconds(run.finish_save)
        print(f"| own checkpoint: training waits | {waits:.1f} | |")
        print(f"| own checkpoint: on the disk, hashed | {whole:.1f} | {megabytes(folder / 'own'):.0f} |")
        newest = CheckpointFolder(folder / "own").latest()
        assert newest is not None
        print(f"| own checkpoint: read | {seconds(lambda: load_checkpoint(newest) and None):.1f} | |")
        theirs = folder / "theirs"
        saved = seconds(lambda: run.engine.deepspeed.save_checkpoint(str(theirs), tag="one") and None)
        print(f"| DeepSpeed: save_checkpoint, training waits | {saved:.1f} | {megabytes(theirs):.0f} |")
        converted = seconds(lambda: convert(theirs / "one", folder / "universal"))
        size = megabytes(folder / "universal")
        print(f"| DeepSpeed: conversion to a universal checkpoint | {converted:.1f} | {size:.0f} |")


def convert(source: Path, target: Path) -> None:
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state"]
    command += ["--input_folder", str(source), "--output_folder", str(target)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])


def megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


if __name__ == "__main__":
    main()
