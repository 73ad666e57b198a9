"""The files that people read: results.h5, ranking.json and ranking.csv, made again from the trials' results."""

from asiarch.hpc.layout import RunLayout
from asiarch.hpc.standings import current_ranking
from asiarch.hpc.state import CampaignState, Candidate
from asiarch.results.ranking import write_ranking
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
    write_ranking(current_ranking(run, state), run.root)
