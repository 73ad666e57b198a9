"""A person's wish that a candidate be trained no further: a file for each in the campaign's folder."""

from asiarch.hpc.layout import RunLayout
from asiarch.results.files import atomic_write_text


def write_cancel_request(run: RunLayout, candidate: int) -> None:
    """Ask the head to cancel a candidate."""
    run.cancel_requests.mkdir(exist_ok=True)
    atomic_write_text(run.cancel_requests / f"{candidate:04d}", "")


def read_cancel_requests(run: RunLayout) -> list[int]:
    """The candidates to be cancelled."""
    try:
        return sorted(int(path.name) for path in run.cancel_requests.iterdir() if path.name.isdecimal())
    except FileNotFoundError:
        return []


def clear_cancel_request(run: RunLayout, candidate: int) -> None:
    """The wish is heeded."""
    (run.cancel_requests / f"{candidate:04d}").unlink(missing_ok=True)
