"""Pydantic's findings as lines for people: file, line, key, what is wrong, what is allowed."""

import difflib
from typing import Any

from pydantic import BaseModel, ValidationError

from asiarch.hpc.yaml_source import YamlSource

Location = tuple[int | str, ...]


def describe_errors(error: ValidationError, source: YamlSource, model: type[BaseModel]) -> str:
    """One line for each finding, in the order of the file's keys."""
    return "\n".join(_line(dict(finding), source, model) for finding in error.errors(include_url=False))


def _line(finding: dict[str, Any], source: YamlSource, model: type[BaseModel]) -> str:
    location: Location = tuple(part for part in finding["loc"] if part != "[key]")
    key = ".".join(str(part) for part in location)
    return f"{source.where(location)}: {key + ': ' if key else ''}{_problem(finding, location, model)}"


def _problem(finding: dict[str, Any], location: Location, model: type[BaseModel]) -> str:
    kind, given = finding["type"], finding["input"]
    if kind == "extra_forbidden":
        allowed = _keys_at(location[:-1], model)
        near = difflib.get_close_matches(str(location[-1]), allowed, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"allowed are {', '.join(allowed)}"
        return f"unknown key; {hint}"
    if kind == "missing":
        return "is missing; give it a value"
    if kind == "value_error":
        return str(finding["ctx"]["error"])
    if kind in ("tuple_type", "list_type"):
        return f"need a list, as in [a, b], not {given!r}"
    if kind in ("dict_type", "model_type"):
        return f"need keys and values, as in {{key: value}}, not {given!r}"
    message = finding["msg"][0].lower() + finding["msg"][1:]
    return f"{message}, not {given!r}"


def _keys_at(location: Location, model: type[BaseModel]) -> list[str]:
    for part in location:
        annotation = model.model_fields[str(part)].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return sorted(model.model_fields)
