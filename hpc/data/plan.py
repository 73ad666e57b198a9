"""What a call of `prepare` is to do: its arguments, checked, and the files it is to read."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asiarch.hpc.data.sources import Source, resolve_sources, walk
from asiarch.hpc.data.tokenizer import Tokenizer, load_tokenizer, tokenizer_hash
from asiarch.models.errors import UserError


@dataclass(frozen=True)
class Plan:
    """Checked arguments. `identity` is what a run must share with an earlier one to go on with its work."""

    out: Path
    sources: list[Source]
    tokenizer: Tokenizer
    fractions: dict[str, float]
    near_duplicates: bool
    seed: int
    shard_tokens: int
    text_column: str
    identity: dict[str, Any]


def make_plan(
    sources: Sequence[str | Path],
    out: Path,
    tokenizer: str | Path,
    fractions: dict[str, float],
    near_duplicates: bool,
    seed: int,
    shard_tokens: int,
    suffixes: Sequence[str],
    text_column: str,
) -> Plan:
    """Check the arguments of `prepare`; UserError for one that is out of range, missing or unreadable."""
    for name, fraction in fractions.items():
        if not 0 <= fraction < 1:
            raise UserError(f"the {name} fraction {fraction} is not in [0, 1)")
    if sum(fractions.values()) >= 1:
        raise UserError(f"validation and test fractions {fractions} leave nothing for training")
    if shard_tokens < 1:
        raise UserError(f"a shard must hold at least 1 token, not {shard_tokens}")
    resolved = resolve_sources(sources, suffixes, out)
    loaded = load_tokenizer(tokenizer)
    identity = {
        "sources": [str(source.path) for source in resolved],
        "suffixes": list(suffixes),
        "text_column": text_column,
        "tokenizer": tokenizer_hash(loaded) or loaded.name,
        **fractions,
        "near_duplicates": near_duplicates,
        "seed": seed,
        "shard_tokens": shard_tokens,
    }
    return Plan(out, resolved, loaded, fractions, near_duplicates, seed, shard_tokens, text_column, identity)


def require_same_arguments(plan: Plan, before: dict[str, Any]) -> None:
    """UserError that names what differs between this call and the one that made the folder."""
    differing = [
        f"{key} {before.get(key)!r}, now {value!r}"
        for key, value in plan.identity.items()
        if before.get(key) != value
    ]
    if differing:
        raise UserError(
            f"{plan.out} was prepared with other arguments ({'; '.join(differing)});"
            " choose another --out, or remove it first"
        )


def list_sources(sources: Sequence[Source]) -> dict[str, Any]:
    """Files and bytes of each source, and a hash of all names, sizes and times."""
    entries = [
        {"source": source.given, "path": str(source.path), "files": 0, "bytes": 0} for source in sources
    ]
    digest = hashlib.sha256()
    for file in walk(sources):
        entry: dict[str, Any] = entries[file.source]
        entry["files"] += 1
        entry["bytes"] += file.size
        digest.update(b"%b\0%d\0%d\0" % (os.fsencode(file.path), file.size, file.modified_ns))
    for entry, source in zip(entries, sources, strict=True):
        if not entry["files"]:
            kind = f"{' or '.join(source.suffixes)} " if source.suffixes else ""
            raise UserError(f"source {source.given} has no {kind}files; check the path, or --suffix")
    return {"sources": entries, "sha256": digest.hexdigest()}
