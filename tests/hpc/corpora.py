"""Corpora for the data tests, and their documents read back without the package's reader."""

import json
import random
from pathlib import Path

import numpy as np


def make_folder(root: Path, texts: dict[str, str]) -> Path:
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(text.encode())
    return root


def corpus(count: int, seed: int = 0) -> dict[str, str]:
    """`count` different texts of 20 to 400 words, with characters of one to four bytes."""
    rng = random.Random(seed)
    words = ["loss", "head", "naïve", "état", "慢い", "🙂", "\n\n", "\t", "x" * 30]
    return {
        f"{number:04d}.txt": f"text {number} " + " ".join(rng.choices(words, k=rng.randint(20, 400)))
        for number in range(count)
    }


def documents(folder: Path) -> dict[str, list[str]]:
    """The documents of each split, read back from the shards' bytes without the reader of the package."""
    manifest = json.loads((folder / "manifest.json").read_text())
    found: dict[str, list[str]] = {}
    for split, shards in manifest["splits"].items():
        found[split] = []
        for shard in shards:
            ids = np.fromfile(folder / shard["file"], manifest["dtype"])
            assert ids[-1] == manifest["end_id"]
            ends = np.flatnonzero(ids == manifest["end_id"])
            assert (len(ids), len(ends)) == (shard["tokens"], shard["documents"])
            pieces = np.split(ids, ends + 1)[:-1]
            found[split] += [bytes(piece[:-1].astype(np.uint8)).decode() for piece in pieces]
    return found


def every(found: dict[str, list[str]]) -> list[str]:
    return [text for texts in found.values() for text in texts]


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
