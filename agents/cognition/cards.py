"""Cards: what they hold, and reading them from YAML with one clear line for a mistake."""

from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from asiarch.models.errors import UserError

SHIPPED = Path(__file__).parent
Line = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^\S[^\n]*$")]
Paragraph = Annotated[str, StringConstraints(min_length=20, max_length=600)]  # bounded: cards go into prompts
# libyaml's loader is some ten times as fast; a PyYAML built without it lacks the class
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Source(_Record):
    """Where a technique was published. `year` is that of the arXiv number, where there is one."""

    authors: Line
    year: Annotated[int, Field(ge=1900, le=2100)]
    title: Line
    arxiv: Annotated[str, StringConstraints(pattern=r"^\d{2}(0[1-9]|1[0-2])\.\d{4,5}$")] | None = None

    @model_validator(mode="after")
    def _number_fits(self) -> "Source":
        if self.arxiv is None:
            return self
        month, serial = self.arxiv.split(".")
        if len(serial) != (5 if month >= "1501" else 4):  # arXiv went over to five digits in January 2015
            raise ValueError(f"arXiv number {self.arxiv} has the wrong number of digits for its month")
        if self.year != 2000 + int(month[:2]):
            raise ValueError(f"year {self.year} is not that of arXiv number {self.arxiv}")
        return self


class Card(_Record):
    """A technique: when to use it, what it does, where it helps, what it costs, and who published it."""

    id: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=60)]
    title: Line
    scenario: Paragraph
    mechanism: Paragraph
    equation: Annotated[str, StringConstraints(min_length=5, max_length=300)]
    helps: Paragraph
    costs: Paragraph
    source: Source

    def text(self) -> str:
        """The whole card for a prompt or a person, a line for each part."""
        source, number = self.source, self.source.arxiv
        return "\n".join(
            (
                f"[{self.id}] {self.title}",
                f"When: {self.scenario}",
                f"How: {self.mechanism}",
                f"Equation: {self.equation}",
                f"Helps: {self.helps}",
                f"Costs: {self.costs}",
                f"Source: {source.authors} ({source.year}), {source.title}"
                + (f", arXiv:{number}" if number else ""),
            )
        )


def load_cards(own: Path | None = None) -> tuple[Card, ...]:
    """The shipped cards and those of a campaign's folder `own` (`*.yaml`, each a list of cards), in a fixed order.

    Raises UserError (file, line, card, key, what is wrong) for a bad card, an id that is taken, or no card at all.
    """
    cards: dict[str, Card] = {}
    for folder in (SHIPPED, own):
        if folder is None:
            continue
        files = sorted(folder.glob("*.yaml"))
        if not files:
            raise UserError(f"{folder}: no *.yaml with cards there; give a folder that has some")
        for path in files:
            for where, card in _read(path):
                if card.id in cards:
                    raise UserError(
                        f"{where}: card {card.id}: id: is taken by another card; choose a new one"
                    )
                cards[card.id] = card
    return tuple(cards.values())


def _read(path: Path) -> list[tuple[str, Card]]:
    """The cards of a file, each with its `file:line`."""
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))
        root = loader.get_single_node()
        entries = loader.construct_document(root) if root else None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        line = 1 if mark is None else mark.line + 1
        raise UserError(f"{path}:{line}: not valid YAML: {problem or str(error).splitlines()[0]}") from None
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path}:1: need a list of cards, each beginning with `- id: NAME`")
    cards = []
    for number, (node, entry) in enumerate(zip(root.value, entries, strict=True), start=1):
        where = f"{path}:{node.start_mark.line + 1}"
        name = entry.get("id", number) if isinstance(entry, dict) else number
        if isinstance(entry, dict) and len(node.value) != len(entry):
            raise UserError(f"{where}: card {name}: a key is there twice")
        try:
            cards.append((where, Card.model_validate(entry)))
        except ValidationError as error:
            raise UserError(f"{where}: card {name}: {_problem(error)}") from None
    return cards


def _problem(error: ValidationError) -> str:
    """The first finding (a misspelt key before one that is missing): key, what is wrong."""
    finding = min(error.errors(include_url=False), key=lambda found: found["type"] != "extra_forbidden")
    key = ".".join(str(part) for part in finding["loc"])
    if finding["type"] == "missing":
        problem = "is missing; give it a value"
    elif finding["type"] == "extra_forbidden":
        problem = (
            f"unknown key; allowed are {', '.join(Source.model_fields if '.' in key else Card.model_fields)}"
        )
    elif finding["type"] == "string_type":
        problem = (
            f"must be text, not {finding['input']!r}; put it in quotes"  # 2203.14340 loses its last digit
        )
    elif finding["type"] == "value_error":
        problem = str(finding["ctx"]["error"])
    else:
        problem = f"{finding['msg'][0].lower()}{finding['msg'][1:]}, not {finding['input']!r}"
    return f"{key + ': ' if key else ''}{problem}"
