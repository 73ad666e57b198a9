"""The files that people read: results.h5, ranking.json, ranking.csv and yields.json, made again from the results."""

from asiarch.hpc.layout import RunLayout
from asiarch.hpc.standings import write_standings
from asiarch.hpc.state import CampaignState, Candidate
from asiarch.results.store import aggregate


def _table_row(candidate: Candidate) -> dict[str, int | str]:
    return {
        "candidate": candidate.id,
        "name": candidate.name,
        "origin": candidate.origin,
        "parent": -1 if candidate.parent is None else candidate.parent,
        "status": candidate.status,
        "rung": candidate.rung,
        "reason": candidate.reason,
    }


def publish_results(run: RunLayout, state: CampaignState) -> None:
    """Write all three; each one atomically."""
    aggregate(run.root, [_table_row(candidate) for candidate in state.candidates.values()], run.results)
    write_standings(run, state)
