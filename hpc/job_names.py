"""The names of a campaign's jobs, by which a head finds again what an earlier one submitted."""

import hashlib

from asiarch.hpc.layout import RunLayout


def job_prefix(run: RunLayout, campaign: str) -> str:
    """What the names of all trials' jobs of a campaign start with, and no other's."""
    return f"{campaign}-{hashlib.sha256(str(run.root).encode()).hexdigest()[:6]}-"
