"""The ranking as the journal has it, without opening a result file."""

import json

import orjson

from asiarch.hpc.layout import RunLayout
from asiarch.hpc.state import CampaignState
from asiarch.results.files import atomic_write_text
from asiarch.results.ranking import CandidateInfo, Ranking, RankingRow, rank, write_ranking
from asiarch.results.trial import TaskResult
from asiarch.results.yields import Tried, Yields, yields

Standings = tuple[Ranking, Yields]


def current_ranking(run: RunLayout, state: CampaignState) -> Ranking:
    """The ranking of all candidates with results, as the journal has them."""
    judge = {c.id: c.judgement for c in state.candidates.values() if c.judgement is not None}
    return rank(state.summaries, candidate_infos(run, state), reference=0, seeds=state.seeds, judge=judge)


def current_yields(state: CampaignState, ranking: Ranking) -> Yields:
    """What each proposer's candidates, and those of each origin, came to so far."""
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
                    origins=candidate.origins,
                )
            )
    return yields(tried, state.summaries, ranking)


def write_standings(run: RunLayout, state: CampaignState) -> None:
    """Write ranking.json, ranking.csv and yields.json, each atomically."""
    ranking = current_ranking(run, state)
    write_ranking(ranking, run.root)
    tables = current_yields(state, ranking).to_json()
    atomic_write_text(run.root / "yields.json", json.dumps(tables, indent=1) + "\n")


def read_standings(run: RunLayout, leaders: int | None = None) -> Standings | None:
    """As the head wrote them last, which are quicker to read than to make; None where there are none yet.

    Args:
        leaders: how many rows of the ranking to read; all of them by default.
    """
    try:
        found = orjson.loads((run.root / "ranking.json").read_bytes())
        rows = tuple(
            RankingRow(**row | {"tasks": {task: TaskResult(**part) for task, part in row["tasks"].items()}})
            for row in found["rows"][:leaders]
        )
        yielded = Yields.from_json(orjson.loads((run.root / "yields.json").read_bytes()))
        return Ranking(**found | {"rows": rows, "seeds": tuple(found["seeds"])}), yielded
    except (OSError, ValueError, KeyError, TypeError):
        return None  # absent, or written by another version


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
