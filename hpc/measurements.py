"""A candidate's results as the LLM's roles are shown them: validation alone, as the test text selects nothing."""

from statistics import fmean, stdev

from asiarch.agents.llm.roles.measured import Comparison, Measured
from asiarch.hpc.state import CampaignState, Candidate

SIBLINGS = 4  # at most, the latest


def compare(candidate: Candidate, state: CampaignState, lag: int) -> Comparison:
    """The candidate beside the reference, its parent and its latest siblings, at the highest rung that it has.

    `lag`: siblings are older by so many candidates; what younger ones have by now is a matter of time.
    """
    rung = max(summary.key.rung for summary in candidate.summaries())
    parent = None if candidate.parent is None else state.candidates[candidate.parent]
    siblings = [
        other
        for other in state.candidates.values()
        if other.parent == candidate.parent and other.id <= candidate.id - lag and not other.baseline
    ]
    return Comparison(
        candidate=_measured(candidate, rung),
        baseline=_measured(state.candidates[0], rung),
        parent=None if parent is None or parent.id == 0 else _measured(parent, rung),
        siblings=tuple(_measured(sibling, rung) for sibling in siblings[-SIBLINGS:]),
        note=candidate.reason,
    )


def _measured(candidate: Candidate, rung: int) -> Measured:
    own = [summary for summary in candidate.summaries() if summary.key.rung == rung]
    if not own:
        return Measured(candidate.name, None)
    losses = [summary.validation_loss for summary in own]
    return Measured(
        name=candidate.name,
        loss=fmean(losses),
        loss_spread=stdev(losses) if len(losses) > 1 else None,
        seeds=len(own),
        tasks={task: fmean(summary.tasks[task].score for summary in own) for task in own[0].tasks},
        tokens_per_s=fmean(summary.tokens_per_s for summary in own),
        parameters=own[0].parameters,
    )
