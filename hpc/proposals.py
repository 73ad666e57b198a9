"""Make a candidate's program and store it in the campaign's folder, before the journal knows of it."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from asiarch.agents.grammar import BASELINE_PROGRAMS, GrammarProposer, RandomProposer, to_spec
from asiarch.agents.llm.researcher import Context
from asiarch.agents.llm.roles.analyst import Analysis
from asiarch.agents.llm.roles.summariser import Member
from asiarch.agents.novelty import fingerprint
from asiarch.agents.policy import make_policy
from asiarch.agents.proposer import KnownCandidate, NothingNew, Proposal, Proposer
from asiarch.hpc.config import CampaignConfig, ProposerName
from asiarch.hpc.layout import RunLayout
from asiarch.hpc.research import DraftRequest, Research
from asiarch.hpc.state import CampaignState, Candidate
from asiarch.models.baselines import baseline_path
from asiarch.models.errors import UserError
from asiarch.results.files import atomic_write_text
from asiarch.results.ranking import candidate_fitness, fitness_by_seed

REFERENCES = 3  # candidates beside the parent that an LLM is shown, at most
NO_PROGRAM = "no program: "  # how the reason begins for which the head refuses a proposal without one
FAMILY = 12  # candidates whose common lesson it is shown, at most


@dataclass(frozen=True)
class StoredProposal:
    """A proposal with its fingerprint, as it lies in the candidate's folder."""

    proposal: Proposal
    fingerprint: str


@dataclass(frozen=True)
class Source:
    """What later proposals need of an earlier one."""

    program: str
    spec: dict[str, Any]
    motivation: str


class ProposalStore:
    """Asks the campaign's proposers, and keeps what they answered."""

    def __init__(
        self,
        run: RunLayout,
        config: CampaignConfig,
        research: Research | None = None,
        recorded: RunLayout | None = None,
    ) -> None:
        """`research` is the LLM's, where there is one; `recorded` the run that is gone through again, in a replay."""
        self._run = run
        self._recorded = recorded
        self._config = config
        self._research = research
        self._policy = policy = make_policy(**config.policy.model_dump())
        self._proposers: dict[ProposerName, Proposer] = {
            "grammar": GrammarProposer(policy),
            "random": RandomProposer(),
        }
        self._sources: dict[int, Source] = {}
        self._finished: dict[int, KnownCandidate] = {}

    def make(self, number: int, known: tuple[int, ...], state: CampaignState) -> StoredProposal | None:
        """The proposal of candidate `number`, made now unless it lies on disk already; None while the LLM is at it.

        Raises:
            NothingNew: the proposer finds no program that was not proposed before.
        """
        if self._run.proposal(number).exists():
            return self.load(number)
        proposal = self._baseline(number) or self._own(number)
        if proposal is None:
            rng, name = self._draw(number)
            proposal = (
                self._drafted(number, known, state) if name == "llm" else self._ask(name, known, state, rng)
            )
        if proposal is None:
            return None
        if self._research is not None:
            self._research.forget_draft(number)
        return self.keep(number, proposal)

    def begin(self, number: int, known: tuple[int, ...], state: CampaignState) -> None:
        """Have the LLM begin what `make` will ask for, where it is the LLM's to make."""
        if number < len(self._config.baselines) + len(self._config.programs):
            return
        _, name = self._draw(number)
        if name == "llm" and self._research is not None and not self._run.proposal(number).exists():
            with suppress(NothingNew):  # `make` will say so
                self._research.draft(number, 0, partial(self._request, number, known, state, 0))

    def _draw(self, number: int) -> tuple[np.random.Generator, ProposerName]:
        """The random numbers of a candidate, and whose it is."""
        rng = np.random.default_rng(np.random.SeedSequence([self._config.seed, number]))
        return rng, draw_proposer(self._config.proposers, rng)

    def keep(self, number: int, proposal: Proposal) -> StoredProposal:
        """Write a proposal to the candidate's folder, with the report of a check that it has had as a draft."""
        stored = StoredProposal(proposal, _fingerprint(proposal.program))
        self._sources.pop(number, None)
        draft = self._run.drafts(number) / hashlib.sha256(proposal.program.encode()).hexdigest()[:12]
        if (draft / "check.json").exists():
            atomic_write_text(self._run.check(number), (draft / "check.json").read_text())
        # the program first: a proposal.json means that both are there
        atomic_write_text(self._run.program(number), proposal.program)
        atomic_write_text(self._run.proposal(number), json.dumps(_to_json(stored), indent=1) + "\n")
        return stored

    def replace_program(self, number: int, program: str) -> StoredProposal:
        """Put a mended program in the place of a candidate's own, which `drafts/` keeps."""
        return self.keep(number, replace(self.load(number).proposal, program=program))

    def load(self, number: int) -> StoredProposal:
        """The stored proposal of a candidate."""
        return _load(self._run, number)

    def _source(self, number: int) -> "Source":
        """What of a proposal later ones need; the whole would fill the memory with the ids that each of them saw."""
        if number not in self._sources:
            record = json.loads(self._run.proposal(number).read_bytes())
            program = self._run.program(number).read_text()
            self._sources[number] = Source(program, record["spec"], record["motivation"])
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

    def _own(self, number: int) -> Proposal | None:
        """A program that the user brought."""
        index = number - len(self._config.baselines)
        if index >= len(self._config.programs):
            return None
        if self._recorded is not None:  # the file may have changed since
            return _load(self._recorded, number).proposal
        path = Path(self._config.programs[index])
        try:
            program = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"programs: {path} cannot be read ({error}); mend that and give the same command again"
            ) from None
        return Proposal(
            program=program,
            name=re.sub(r"\W+", "_", path.stem),
            motivation="A program of the user's own.",
            parent=None,
            edits=(),
            proposer="own",
            spec={},
            saw=(),
        )

    def _ask(
        self, name: ProposerName, known: tuple[int, ...], state: CampaignState, rng: np.random.Generator
    ) -> Proposal:
        seen = _seen(state.candidates.values())
        return self._proposers[name].propose(self._views(known, state), rng, seen)

    def _views(self, known: tuple[int, ...], state: CampaignState) -> list[KnownCandidate]:
        """The baselines and the known candidates, the results of the known ones with them."""
        baselines = range(len(self._config.baselines))
        candidates = [state.candidates[n] for n in sorted({*baselines, *known})]
        with_results = frozenset(known)
        return [self._view(candidate, candidate.id in with_results, state) for candidate in candidates]

    def _drafted(self, number: int, known: tuple[int, ...], state: CampaignState) -> Proposal | None:
        """The LLM's proposal. One that repeats what was proposed while it was made is made once more."""
        assert self._research is not None
        first = self._research.draft(number, 0, partial(self._request, number, known, state, 0))
        if first is None or "failed" in first.notes:
            return first
        if _fingerprint(first.program) not in _seen(state.candidates.values()):
            return first
        return self._research.draft(number, 1, partial(self._request, number, known, state, 1))

    def _request(self, number: int, known: tuple[int, ...], state: CampaignState, turn: int) -> DraftRequest:
        """What a draft may know. `turn` 0 is begun ahead, so it must not see what others proposed meanwhile."""
        rng, _ = self._draw(number)
        views = self._views(known, state)
        parent = self._policy.parent(self._that_fit(views, state), rng)
        if parent is None:
            raise NothingNew("no known candidate that fits the LLM's context can be a parent")
        references = self._policy.references(views, rng, REFERENCES)
        family = family_of(parent, views)
        told = {one.id for one in (parent, *references, *family)}
        analyses = {number: found for number in sorted(told) if (found := self._analysis(number)) is not None}
        proposed = state.candidates.values() if turn else [state.candidates[view.id] for view in views]
        return DraftRequest(
            parent=parent,
            references=references,
            known=tuple(views),
            context=Context(analyses, {view.id: self._source(view.id).motivation for view in views}),
            family=tuple(self._member(one, analyses, state) for one in family),
            rng=rng,
            seen=frozenset(_seen(proposed)),
        )

    def _that_fit(self, views: Sequence[KnownCandidate], state: CampaignState) -> list[KnownCandidate]:
        """Those whose program fits the LLM's context, by our count and, where one was asked for, by its server's."""
        assert self._research is not None
        candidates = [state.candidates[view.id] for view in views if view.status == "refused"]
        refused = {one.parent for one in candidates if one.reason.startswith(f"{NO_PROGRAM}overlong")}
        return [view for view in views if view.id not in refused and self._research.fits(view)]

    def _analysis(self, number: int) -> Analysis | None:
        path = self._run.analysis(number)
        words = json.loads(path.read_text())["analysis"] if path.exists() else None
        return None if words is None else Analysis(**words)

    def _member(self, one: KnownCandidate, analyses: Mapping[int, Analysis], state: CampaignState) -> Member:
        """A line of what a family has taught."""
        lesson = analyses[one.id].lesson if one.id in analyses else state.candidates[one.id].reason
        return Member(one.id, one.parent, one.name, self._source(one.id).motivation, one.loss, lesson)

    def _view(self, candidate: Candidate, results_known: bool, state: CampaignState) -> KnownCandidate:
        if results_known and candidate.id in self._finished:
            return self._finished[candidate.id]
        source = self._source(candidate.id)
        fitness = loss = None
        seed_fitness: tuple[float, ...] = ()
        if results_known and candidate.status == "finished":
            own, reference = candidate.summaries(), state.candidates[0].summaries()
            fitness = candidate_fitness(own, reference, state.last_rung, candidate.judgement).value
            at_last = [summary.validation_loss for summary in own if summary.key.rung == state.last_rung]
            loss = float(np.mean(at_last))
            seed_fitness = fitness_by_seed(own, reference, state.last_rung, candidate.judgement)
        view = KnownCandidate(
            id=candidate.id,
            name=candidate.name,
            program=source.program,
            spec=source.spec,
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


def _load(run: RunLayout, number: int) -> StoredProposal:
    return _from_json(read_proposal(run.proposal(number)), run.program(number).read_text())


def family_of(parent: KnownCandidate, known: Sequence[KnownCandidate]) -> tuple[KnownCandidate, ...]:
    """The parent's line, back to before a baseline, and the children of them all; the latest few."""
    written = {one.id: one for one in known if not one.baseline}
    line, one = {parent.id}, parent
    while one.parent in written:
        one = written[one.parent]
        line.add(one.id)
    found = [one for one in known if not one.baseline and (one.id in line or one.parent in line)]
    return tuple(found[-FAMILY:])


def _seen(candidates: Iterable[Candidate]) -> set[str]:
    """As they were proposed: when repairs come is a matter of time, which a deterministic search must not see."""
    return {candidate.proposed_as for candidate in candidates}


def _fingerprint(program: str) -> str:
    try:
        return fingerprint(program)
    except (
        SyntaxError,
        ValueError,
        RecursionError,
        MemoryError,
    ):  # an LLM's last word may be no program at all
        return hashlib.sha256(program.encode()).hexdigest()


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
