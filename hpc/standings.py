"""The ranking as the journal has it, without opening a result file."""

from asiarch.hpc.layout import RunLayout
from asiarch.hpc.state import CampaignState
from asiarch.results.ranking import CandidateInfo, Ranking, rank
from asiarch.results.yields import ProposerYield, Tried, yields


def current_ranking(run: RunLayout, state: CampaignState) -> Ranking:
    """The ranking of all candidates with results, as the journal has them."""
    return rank(state.summaries, candidate_infos(run, state), reference=0, seeds=state.seeds)


def current_yields(state: CampaignState, ranking: Ranking) -> tuple[ProposerYield, ...]:
    """What each proposer's candidates came to so far."""
    tried = []
    for candidate in state.candidates.values():
        seconds = [trial.seconds for trial in candidate.trials.values() if trial.seconds]
        if not candidate.baseline:
            tried.append(
                Tried(
                    candidate=candidate.id,
                    proposer=candidate.proposer,
                    parent=candidate.parent,
                    accepted=candidate.status not in ("proposed", "refused"),
                    gpu_hours=sum(s["gpu_hours"] for s in seconds),
                    trial_hours=sum(s["elapsed"] for s in seconds) / 3600,
                )
            )
    return yields(tried, state.summaries, ranking)


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
