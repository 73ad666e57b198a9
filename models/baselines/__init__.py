"""The mixers to compare with, each a program of the candidate's contract."""

from pathlib import Path

from asiarch.models.errors import UserError

__all__ = ["BASELINES", "baseline_path"]

BASELINES: tuple[str, ...] = (
    "delta_net",
    "gated_delta_net",
    "gla",
    "kimi_delta_attention",
    "linear_attention",
    "mamba2",
    "retnet",
    "softmax_attention",
)


def baseline_path(name: str) -> Path:
    """The program of a baseline. Raises UserError, with the names that exist, for any other name."""
    if name not in BASELINES:
        raise UserError(f"no baseline is called {name!r}: use one of {', '.join(BASELINES)}")
    return Path(__file__).with_name(f"{name}.py")
