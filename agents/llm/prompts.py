"""The roles' prompts: a file a role, which a campaign may replace by its own."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template

from asiarch.models.errors import UserError

SHIPPED = Path(__file__).parents[1] / "prompts"
NAMES = ("analyst", "contract", "judge", "novelty", "planner", "repair", "summariser")
_SPLIT = re.compile(r"^---[ \t]*\n", re.MULTILINE)


@dataclass(frozen=True)
class Prompts:
    """The texts by name. A role's is what the system says, a line `---`, and what the user says."""

    texts: Mapping[str, str]

    @classmethod
    def load(cls, own: Path | None = None) -> "Prompts":
        """The shipped prompts, with those of a campaign's folder `own` (`planner.md`, ...) in their place.

        Raises UserError (file, what is wrong) for a file that no role reads, that cannot be read, that lacks the
        line `---`, or whose placeholders are not those of the shipped file.
        """
        texts = {name: _read(SHIPPED / f"{name}.md") for name in NAMES}
        for path in sorted(own.glob("*.md")) if own is not None else ():
            if path.stem not in NAMES:
                raise UserError(f"{path}: no prompt has this name; there are {', '.join(NAMES)}")
            text = _read(path)
            _expect_placeholders(path, text, _placeholders(SHIPPED / f"{path.stem}.md", texts[path.stem]))
            if path.stem != "contract" and len(_SPLIT.split(text)) != 2:
                raise UserError(f"{path}: need one line --- between the system's part and the user's")
            texts[path.stem] = text
        return cls(texts)

    def fill(self, name: str, values: Mapping[str, str]) -> tuple[str, str]:
        """What the system and what the user says. Raises KeyError where a value is missing."""
        system, user = _SPLIT.split(self.texts[name])
        return _filled(system, values), _filled(user, values)

    def contract_sections(self) -> tuple[str, ...]:
        """The contract, a text for each heading, the most needed first."""
        text = Template(self.texts["contract"]).substitute()
        return tuple(part.strip() for part in re.split(r"^(?=## )", text, flags=re.MULTILINE) if part.strip())


def _filled(text: str, values: Mapping[str, str]) -> str:
    # a part that was left out leaves a gap, not three empty lines
    return re.sub(r"\n{3,}", "\n\n", Template(text).substitute(values)).strip()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from None


def _placeholders(path: Path, text: str) -> frozenset[str]:
    found = set()
    for match in Template.pattern.finditer(text):
        if match["invalid"] is not None:
            line = text.count("\n", 0, match.start()) + 1
            raise UserError(f"{path}:{line}: a $ that begins no placeholder; write $$ for a dollar sign")
        if name := match["named"] or match["braced"]:
            found.add(name)
    return frozenset(found)


def _expect_placeholders(path: Path, text: str, wanted: frozenset[str]) -> None:
    found = _placeholders(path, text)
    known = ", ".join(f"${name}" for name in sorted(wanted)) or "none"
    for name in sorted(found - wanted):
        raise UserError(f"{path}: unknown placeholder ${name}; this prompt's are {known}")
    for name in sorted(wanted - found):
        raise UserError(f"{path}: the placeholder ${name} is missing; this prompt's are {known}")
