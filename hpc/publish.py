"""The files that people read: results.h5, ranking.json and ranking.csv, made again from the trials' results."""

from asiarch.hpc.layout import RunLayout
from asiarch.hpc.state import CampaignState, Candidate
from asiarch.results.ranking import CandidateInfo, Ranking, rank, write_ranking
from asiarch.results.store import aggregate


def current_ranking(run: RunLayout, state: CampaignState) -> Ranking:
    """The ranking of all candidates with results, as the journal has them."""
    return rank(state.summaries, candidate_infos(run, state), reference=0, seeds=state.seeds)


def candidate_infos(run: RunLayout, state: CampaignState) -> list[CandidateInfo]:
    return [
        CandidateInfo(
            candidate=candidate.id,
            name=candidate.name,
            origin=candidate.origin,
            parent=candidate.parent,
            path=str(run.program(candidate.id).relative_to(run.root)),
        )
        for candidate in state.candidates.values()
    ]


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
