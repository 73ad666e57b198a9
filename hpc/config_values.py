"""The kinds of value that a campaign's YAML holds: numbers with their bounds, times with their unit, paths."""

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer

STDLIB = "stdlib"


def number(value: Any) -> Any:
    # YAML 1.1 takes 1e9 for a text, and true is no number
    if isinstance(value, bool):
        raise ValueError("need a number, not true or false")
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise ValueError(f"need a number, not {value!r}") from None
    return int(value) if isinstance(value, float) and value.is_integer() else value


def seconds(value: Any) -> int:
    match = re.fullmatch(r"([1-9]\d*)\s*(s|m|h|d)", str(value).strip())
    if match is None:
        raise ValueError("need a time with its unit, such as 90s, 30m, 4h or 2d")
    return int(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]


def absolute(value: Any) -> Any:
    return str(Path(value).expanduser().absolute()) if isinstance(value, str) else value


def absolute_each(value: Any) -> Any:
    if not value:
        raise ValueError("say what to train on: text files, folders, or one folder made by `data prepare`")
    parts = value if isinstance(value, list) else [value]
    return [part if part == STDLIB else absolute(part) for part in parts]


AbsolutePath = Annotated[str, BeforeValidator(absolute)]
Count = Annotated[int, BeforeValidator(number), Field(ge=1)]
Natural = Annotated[int, BeforeValidator(number), Field(ge=0)]
Positive = Annotated[float, BeforeValidator(number), Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, BeforeValidator(number), Field(gt=0, le=1)]
NotNegative = Annotated[float, BeforeValidator(number), Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, BeforeValidator(number), Field(ge=0, le=1)]
Duration = Annotated[int, BeforeValidator(seconds), PlainSerializer(lambda seconds: f"{seconds}s")]
