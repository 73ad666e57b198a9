"""The corpus of programs that `check` must refuse or accept: what each file says of itself."""

import ast
import re
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).with_name("corpus")


@dataclass(frozen=True)
class Entry:
    """A program, what its docstring says, and the checks one of which must refuse it; none for an honest one."""

    path: Path
    text: str
    refused_by: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.path.parent.name}/{self.path.stem}"


def entries() -> list[Entry]:
    """All programs of the corpus, in order of their names."""
    return [read(path) for path in sorted(FOLDER.glob("*/*.py"))]


def read(path: Path) -> Entry:
    """What a program's docstring says: `Wrong: ...` with `Refused by: a, b`, or `Honest: ...`."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    named = re.search(r"^Refused by: (.+)$", text, re.MULTILINE)
    kind, told = text.split("\n\n")[0].split(": ", 1)
    refused_by = tuple(named[1].split(", ")) if named else ()
    if (kind, path.parent.name, bool(refused_by)) not in (
        ("Wrong", "wrong", True),
        ("Honest", "honest", False),
    ):
        raise ValueError(f"{path}: its docstring does not say what a program of its folder says")
    return Entry(path, " ".join(told.split()), refused_by)
