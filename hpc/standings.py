"""The ranking as the journal has it, without opening a result file."""

from asiarch.hpc.layout import RunLayout
from asiarch.hpc.state import CampaignState
from asiarch.results.ranking import CandidateInfo, Ranking, rank


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
