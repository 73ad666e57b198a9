"""What an examination says."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at, what was found, and, where it is not well, what to do about it."""

    what: str
    level: Level
    found: str
    remedy: str = ""
