"""`data prepare`: tokens/s by tokenizer and number of workers, on the standard library's sources taken eight times.

    python tests/bench/data.py

Prints a table; the ratio of a row is to one worker with the same tokenizer, measured in the same run.
"""

import json
import sysconfig
import tempfile
import time
from pathlib import Path

from asiarch.hpc.data import prepare
from asiarch.hpc.data.encoding import usable_cores
from asiarch.hpc.data.tokenizer_training import train_tokenizer

COPIES = 8


def write_corpus(path: Path) -> None:
    """JSON lines; each copy differs by a line, so that none counts as equal."""
    sources = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*/*.py"))
    with path.open("w") as out:
        for copy in range(COPIES):
            for source in sources:
                text = source.read_text(errors="replace")
                out.write(json.dumps({"text": f"{text}\n# copy {copy}\n"}) + "\n")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_corpus(folder / "text.jsonl")
        started = time.perf_counter()
        train_tokenizer(
            [folder / "text.jsonl"], folder / "bpe.json", vocabulary=16_384, sample_bytes=20_000_000
        )
        print(f"a tokenizer of 16,384 from 20 MB: {time.perf_counter() - started:.1f} s")
        cases = {
            "bytes": ("bytes", False),
            "bpe": (folder / "bpe.json", False),
            "near duplicates": ("bytes", True),
        }
        print(f"{'':<18}{'workers':>8}{'tokens/s':>14}{'MB/s':>8}{'ratio':>8}")
        for case, (tokenizer, near_duplicates) in cases.items():
            alone = 0.0
            for workers in sorted({1, usable_cores()}):
                started = time.perf_counter()
                out = folder / f"{case}-{workers}"
                manifest = prepare(
                    [folder / "text.jsonl"],
                    out,
                    tokenizer=tokenizer,
                    near_duplicates=near_duplicates,
                    workers=workers,
                )
                seconds = time.perf_counter() - started
                tokens = sum(manifest.tokens(split) for split in manifest.splits)
                alone = alone or seconds
                speed = (folder / "text.jsonl").stat().st_size / seconds / 1e6
                rates = f"{tokens / seconds:>14,.0f}{speed:>8.1f}{alone / seconds:>8.2f}"
                print(f"{case:<18}{workers:>8}{rates}")


if __name__ == "__main__":
    main()
