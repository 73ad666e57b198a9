"""`manifest.json`: what a folder of token shards holds. Written last: a folder without it is no dataset."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from asiarch.models.errors import UserError

FORMAT: Final = "asiarch-tokens"
VERSION: Final = 2
FILE_NAME: Final = "manifest.json"
SPLITS: Final = ("train", "validation", "test")


@dataclass(frozen=True)
class Shard:
    """One file of token ids; `sha256` is of the file's bytes. Each document ends with the end id.

    bytes: of the documents' texts in UTF-8.
    """

    file: str
    tokens: int
    documents: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The content of `manifest.json`.

    `dtype` is `<u2` or `<u4` (little-endian unsigned). `arguments` are those `prepare` ran with, and decide
    whether a folder answers a second call. `skipped` counts files and rows by reason and names the first of them.
    """

    tokenizer: dict[str, Any]
    vocab_size: int
    dtype: str
    end_id: int
    splits: dict[str, tuple[Shard, ...]]
    sources: list[dict[str, Any]]
    arguments: dict[str, Any]
    dropped: dict[str, int]
    skipped: dict[str, Any]

    def tokens(self, split: str) -> int:
        """Tokens of a split, the end ids included."""
        return sum(shard.tokens for shard in self.splits[split])

    def documents(self, split: str) -> int:
        """Documents of a split."""
        return sum(shard.documents for shard in self.splits[split])

    def bytes_per_token(self, split: str) -> float:
        """UTF-8 bytes of a split's texts for each token, the end ids among the tokens."""
        return sum(shard.bytes for shard in self.splits[split]) / self.tokens(split)

    def to_json(self) -> str:
        """The text of `manifest.json`: the same content gives the same bytes."""
        return json.dumps({"format": FORMAT, "version": VERSION, **asdict(self)}, indent=1) + "\n"


def read_manifest(folder: Path) -> Manifest:
    """Read and validate `folder/manifest.json`; UserError when missing, damaged or of another version."""
    path = folder / FILE_NAME
    try:
        content = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{folder} is not a prepared dataset (no {FILE_NAME}); make one, or finish it, with"
            f" `asiarch-hpc data prepare SOURCE --out {folder}`"
        ) from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}); prepare the dataset again") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path} is not the manifest of a dataset (its format is not {FORMAT!r})")
    if content.get("version") != VERSION:
        raise UserError(
            f"{path} has version {content.get('version')!r}, this program reads {VERSION};"
            " prepare the dataset again"
        )
    try:
        return _from_content(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error!r}); prepare the dataset again") from None


def _from_content(content: Mapping[str, Any]) -> Manifest:
    if content["dtype"] not in ("<u2", "<u4"):
        raise ValueError(f"dtype {content['dtype']!r}")
    if not 0 <= int(content["end_id"]) < int(content["vocab_size"]) <= np.iinfo(content["dtype"]).max + 1:
        raise ValueError(f"end_id {content['end_id']}, vocab_size {content['vocab_size']}")
    splits = {name: tuple(Shard(**shard) for shard in shards) for name, shards in content["splits"].items()}
    if unknown := set(splits) - set(SPLITS):
        raise ValueError(f"splits {sorted(unknown)}")
    rest = {key: value for key, value in content.items() if key not in ("format", "version", "splits")}
    return Manifest(splits=splits, **rest)
