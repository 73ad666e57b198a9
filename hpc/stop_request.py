"""A person's wish that the head stop: a file in the campaign's folder, which reaches it on whatever node it is."""

from typing import Literal, get_args

from asiarch.hpc.layout import RunLayout
from asiarch.results.files import atomic_write_text

# drain: what is under way is finished, nothing new is begun. now: trials write a checkpoint and end
StopRequest = Literal["drain", "now"]


def write_stop_request(run: RunLayout, request: StopRequest) -> None:
    """Ask the head to stop; a later request takes the place of an earlier one."""
    atomic_write_text(run.stop_request, request)


def read_stop_request(run: RunLayout) -> StopRequest | None:
    """What was asked for; None where nothing was."""
    try:
        text = run.stop_request.read_text()
    except FileNotFoundError:
        return None
    return next((word for word in get_args(StopRequest) if word == text), None)


def clear_stop_request(run: RunLayout) -> None:
    """A head that starts, or has done as it was asked, forgets the wish."""
    run.stop_request.unlink(missing_ok=True)
