"""Make a candidate's program and store it in the campaign's folder, before the journal knows of it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from asiarch.agents.grammar import BASELINE_PROGRAMS, GrammarProposer, RandomProposer, to_spec
from asiarch.agents.novelty import fingerprint
from asiarch.agents.policy import make_policy
from asiarch.agents.proposer import KnownCandidate, Proposal, Proposer
from asiarch.hpc.config import CampaignConfig, ProposerName
from asiarch.hpc.layout import RunLayout
from asiarch.hpc.state import CampaignState, Candidate
from asiarch.models.baselines import baseline_path
from asiarch.results.files import atomic_write_text
from asiarch.results.ranking import candidate_fitness, fitness_by_seed


@dataclass(frozen=True)
class StoredProposal:
    """A proposal with its fingerprint, as it lies in the candidate's folder."""

    proposal: Proposal
    fingerprint: str


class ProposalStore:
    """Asks the campaign's proposers, and keeps what they answered."""

    def __init__(self, run: RunLayout, config: CampaignConfig) -> None:
        self._run = run
        self._config = config
        policy = make_policy(**config.policy.model_dump())
        self._proposers: dict[ProposerName, Proposer] = {
            "grammar": GrammarProposer(policy),
            "random": RandomProposer(),
        }
        self._sources: dict[int, tuple[str, dict[str, Any]]] = {}  # program and spec
        self._finished: dict[int, KnownCandidate] = {}

    def make(self, number: int, known: tuple[int, ...], state: CampaignState) -> StoredProposal:
        """The proposal of candidate `number`, made now unless it lies on disk already.

        Raises:
            NothingNew: the proposer finds no program that was not proposed before.
        """
        if self._run.proposal(number).exists():
            return self.load(number)
        proposal = self._baseline(number) or self._ask(number, known, state)
        stored = StoredProposal(proposal, fingerprint(proposal.program))
        self.keep(number, stored)
        return stored

    def keep(self, number: int, stored: StoredProposal) -> None:
        """Write a proposal to the candidate's folder."""
        # the program first: a proposal.json means that both are there
        atomic_write_text(self._run.program(number), stored.proposal.program)
        atomic_write_text(self._run.proposal(number), json.dumps(_to_json(stored), indent=1) + "\n")

    def load(self, number: int) -> StoredProposal:
        """The stored proposal of a candidate."""
        return _from_json(read_proposal(self._run.proposal(number)), self._run.program(number).read_text())

    def _source(self, number: int) -> tuple[str, dict[str, Any]]:
        """The program and the spec; whole proposals would fill the memory with the ids that each of them saw."""
        if number not in self._sources:
            spec = read_proposal(self._run.proposal(number))["spec"]
            self._sources[number] = self._run.program(number).read_text(), spec
        return self._sources[number]

    def _baseline(self, number: int) -> Proposal | None:
        if number >= len(self._config.baselines):
            return None
        name = self._config.baselines[number]
        spec = to_spec(BASELINE_PROGRAMS[name]) if name in BASELINE_PROGRAMS else {}
        return Proposal(
            program=baseline_path(name).read_text(),
            name=name,
            motivation="A published architecture, to compare with and to start from.",
            parent=None,
            edits=(),
            proposer="baseline",
            spec=spec,
            saw=(),
        )

    def _ask(self, number: int, known: tuple[int, ...], state: CampaignState) -> Proposal:
        rng = np.random.default_rng(np.random.SeedSequence([self._config.seed, number]))
        proposer = self._proposers[draw_proposer(self._config.proposers, rng)]
        baselines = range(len(self._config.baselines))
        candidates = [state.candidates[n] for n in sorted({*baselines, *known})]
        seen = {candidate.fingerprint for candidate in state.candidates.values()}
        with_results = frozenset(known)
        views = [self._view(candidate, candidate.id in with_results, state) for candidate in candidates]
        return proposer.propose(views, rng, seen)

    def _view(self, candidate: Candidate, results_known: bool, state: CampaignState) -> KnownCandidate:
        if results_known and candidate.id in self._finished:
            return self._finished[candidate.id]
        program, spec = self._source(candidate.id)
        fitness = loss = None
        seed_fitness: tuple[float, ...] = ()
        if results_known and candidate.status == "finished":
            own, reference = candidate.summaries(), state.candidates[0].summaries()
            fitness = candidate_fitness(own, reference, state.last_rung).value
            at_last = [summary.validation_loss for summary in own if summary.key.rung == state.last_rung]
            loss = float(np.mean(at_last))
            seed_fitness = fitness_by_seed(own, reference, state.last_rung)
        view = KnownCandidate(
            id=candidate.id,
            name=candidate.name,
            program=program,
            spec=spec,
            fitness=fitness,
            loss=loss,
            status=candidate.status if results_known else "proposed",
            parent=candidate.parent,
            baseline=candidate.baseline,
            seed_fitness=seed_fitness,
        )
        if view.has_result:
            self._finished[candidate.id] = view
        return view


def draw_proposer(shares: Mapping[ProposerName, float], rng: np.random.Generator) -> ProposerName:
    """One of the proposers, each as often as its share says."""
    names = sorted(shares)
    weights = np.array([shares[name] for name in names])
    return names[int(rng.choice(len(names), p=weights / weights.sum()))]


def read_proposal(path: Path) -> dict[str, Any]:
    """A candidate's proposal.json: name, motivation, parent, edits, proposer, spec, saw, fingerprint."""
    record: dict[str, Any] = json.loads(path.read_text())
    return record | {"saw": _ids(record["saw"])}


def _to_json(stored: StoredProposal) -> dict[str, Any]:
    record = vars(stored.proposal) | {"saw": _spans(stored.proposal.saw), "fingerprint": stored.fingerprint}
    del record["program"]  # it lies beside, in architecture.py
    return record


def _spans(ids: Sequence[int]) -> str:
    """`0-37 39 41-120`: thousands of proposals each saw thousands of candidates."""
    spans: list[tuple[int, int]] = []
    for number in ids:
        if spans and number == spans[-1][1] + 1:
            spans[-1] = spans[-1][0], number
        else:
            spans.append((number, number))
    return " ".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)


def _ids(spans: str) -> list[int]:
    """The inverse of `_spans`."""
    ends = (span.partition("-") for span in spans.split())
    return [number for first, _, last in ends for number in range(int(first), int(last or first) + 1)]


def _from_json(record: dict[str, Any], program: str) -> StoredProposal:
    fields = {name: value for name, value in record.items() if name != "fingerprint"}
    fields["edits"], fields["saw"] = tuple(fields["edits"]), tuple(fields["saw"])
    return StoredProposal(Proposal(program=program, **fields), record["fingerprint"])
