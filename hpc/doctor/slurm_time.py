"""Slurm's way to write a length of time."""

import re


def slurm_seconds(text: str) -> int | None:
    """The seconds of Slurm's `days-hours:minutes:seconds`; None where there is no limit."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", text)
    if match is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
