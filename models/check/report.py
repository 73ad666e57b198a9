"""The result of a check: a value per check, a verdict, and a JSON form of a fixed format."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

FORMAT = 1

Measured = float | int | str | list[Any]


@dataclass(frozen=True)
class CheckResult:
    """One check: what it measured, and, when it refuses, what was done, what was seen, and the usual cause.

    A check that could not be run has not passed, has measured nothing, and says why in `message`.
    """

    name: str
    passed: bool
    measured: dict[str, Measured] = field(default_factory=dict)
    message: str = ""

    @classmethod
    def not_run(cls, name: str, because: str) -> "CheckResult":
        """The result of a check that an earlier refusal made impossible."""
        return cls(name, False, {}, f"not run: {because}")

    @property
    def was_run(self) -> bool:
        """Whether the check looked at the program at all."""
        return self.passed or not self.message.startswith("not run")


@dataclass(frozen=True)
class CheckReport:
    """All checks of one program. `file` is as it was given, `sha256` is of the file's bytes."""

    accepted: bool
    file: str
    sha256: str
    seconds: float
    checks: tuple[CheckResult, ...]

    @classmethod
    def of(cls, file: str, sha256: str, seconds: float, checks: Sequence[CheckResult]) -> "CheckReport":
        """The report on `checks`: accepted when there are checks and all of them passed."""
        accepted = bool(checks) and all(check.passed for check in checks)
        return cls(accepted, file, sha256, seconds, tuple(checks))

    @property
    def refusals(self) -> tuple[CheckResult, ...]:
        """The checks that were run and refused the program."""
        return tuple(check for check in self.checks if not check.passed and check.was_run)

    def to_json(self) -> str:
        """The report as JSON text, one object, keys in a fixed order."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "CheckReport":
        """Read `to_json`'s text. Raises ValueError when it is not such a report, or contradicts itself."""
        try:
            value = json.loads(text)
            if value["format"] != FORMAT:
                raise ValueError(f"format {value['format']!r}, this version reads {FORMAT}")
            checks = [CheckResult(**check) for check in value["checks"]]
            report = cls.of(value["file"], value["sha256"], float(value["seconds"]), checks)
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"not a check report: {type(error).__name__}: {error}") from None
        if report.accepted is not value["accepted"]:
            raise ValueError("not a check report: its verdict contradicts its checks")
        return report


def number(value: float) -> Measured:
    """A measured number, rounded to four digits; a value that JSON has no number for becomes text."""
    return float(f"{value:.4g}") if math.isfinite(value) else str(value)
