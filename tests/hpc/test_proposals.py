"""Who proposes which candidate, and what it may know, without any training."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from scipy import stats

from asiarch.agents.proposer import KnownCandidate, NothingNew
from asiarch.hpc.config import CampaignConfig, load_config
from asiarch.hpc.layout import RunLayout
from asiarch.hpc.proposals import ProposalStore, draw_proposer, family_of, read_proposal
from asiarch.hpc.research import DraftRequest, Research
from asiarch.hpc.state import CampaignState
from asiarch.models.errors import UserError

SEEDS = (0, 1)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> CampaignConfig:
    path: Path = tmp_path_factory.mktemp("config") / "c.yaml"
    path.write_text(
        "name: mixed\npreset: demo\nseed: 3\nseeds: 2\nproposers: {grammar: 0.5, random: 0.5}\n"
        "search: {in_flight: 2}\nbudget: {candidates: 14}\n"
    )
    return load_config(path)


class Journal:
    """A campaign whose trials end at once, with numbers that depend on the candidate alone."""

    def __init__(self, root: Path, config: CampaignConfig) -> None:
        self.run, self.config = RunLayout(root), config
        self.events: list[dict[str, Any]] = []
        self.state = CampaignState()
        self.write("campaign_started", seeds=list(SEEDS), rungs=1)

    def write(self, event: str, **fields: Any) -> None:
        record = {"time": "2026-01-01T00:00:00+00:00", "event": event, **fields}
        self.events.append(record)
        self.state.apply(record)

    def propose(self, store: ProposalStore, number: int, backwards: bool) -> None:
        known = tuple(range(number - 1))
        stored = store.make(number, known[::-1] if backwards else known, self.state)
        fields = {name: getattr(stored.proposal, name) for name in ("name", "proposer", "parent")}
        self.write(
            "proposed", candidate=number, fingerprint=stored.fingerprint, baseline=number == 0, **fields
        )

    def finish(self, number: int, backwards: bool) -> None:
        self.write("accepted", candidate=number)
        self.write("submitted", candidate=number, rung=0, seeds=list(SEEDS), jobs=["j", "j"])
        for seed in reversed(SEEDS) if backwards else SEEDS:
            names = {"candidate": number, "rung": 0, "seed": seed}
            loss = 3 + 0.05 * float(np.random.default_rng([number, seed]).standard_normal())
            numbers = {"validation_loss": loss, "test_loss": loss, "tokens_per_s": 1.0, "parameters": 1}
            errors = {f"{split}_{of}": 1 for split in ("validation", "test") for of in ("error", "windows")}
            if number % 5 == 4:
                self.write("trial_failed", **names, cause="diverged", detail="nan")
            else:
                self.write(
                    "trial_finished", **names, summary={**names, **numbers, **errors, "tasks": {}}, seconds={}
                )


class Reader:
    """An LLM's desk that takes programs up to a length, and keeps what it is asked."""

    def __init__(self, longest: int) -> None:
        self.longest, self.asked = longest, list[DraftRequest]()

    def fits(self, parent: KnownCandidate) -> bool:
        return len(parent.program) <= self.longest

    def draft(self, number: int, turn: int, request: Callable[[], DraftRequest]) -> None:
        self.asked.append(request())


def test_a_parent_that_the_llm_cannot_read_is_not_drawn(tmp_path: Path, config: CampaignConfig) -> None:
    journal = Journal(tmp_path, config)
    store = ProposalStore(journal.run, config)
    for number in range(8):
        journal.propose(store, number, backwards=False)
        journal.finish(number, backwards=False)
    lengths = [len(journal.run.program(number).read_text()) for number in range(8)]
    longest = sorted(lengths)[4]
    only_llm = config.model_copy(update={"proposers": {"llm": 1.0}})

    def drawn(longest: int) -> set[int]:
        reader = Reader(longest)
        store = ProposalStore(journal.run, only_llm, cast(Research, reader))
        for number in range(100, 140):
            assert store.make(number, tuple(range(9)[: len(journal.state.candidates)]), journal.state) is None
        return {request.parent.id for request in reader.asked}

    short = {number for number in range(8) if lengths[number] <= longest}
    assert len(drawn(max(lengths)) - short) > 0
    parents = drawn(longest)
    assert len(parents) > 1
    assert parents < short
    # the LLM's own server may count more than we do
    never = max(parents)
    named = {"name": "no-program", "proposer": "llm", "baseline": False, "fingerprint": ""}
    journal.write("proposed", candidate=8, parent=never, **named)
    shutil.copytree(journal.run.candidate(1), journal.run.candidate(8))
    journal.write("refused", candidate=8, reason="no program: overlong: refused: 2049 tokens")
    assert drawn(longest) <= parents - {never}
    with pytest.raises(NothingNew, match="fits the LLM's context"):
        drawn(0)


def searched(root: Path, config: CampaignConfig, restart: bool) -> list[dict[str, Any]]:
    """The proposals of a campaign; with restarts its head begins anew before each, and trials end in another order."""
    root.mkdir()
    journal = Journal(root, config)
    store = ProposalStore(journal.run, config)
    for number in range(15):
        if restart:
            journal.state = CampaignState.replay(journal.events)
            store = ProposalStore(journal.run, config)
        journal.propose(store, number, backwards=restart)
        journal.finish(number, backwards=restart)
    return [read_proposal(journal.run.proposal(number)) for number in range(15)]


@pytest.mark.parametrize("policy", ["lineage", "paper"])
def test_the_search_is_the_same_after_restarts_and_in_any_order(
    tmp_path: Path, config: CampaignConfig, policy: str
) -> None:
    config = config.model_copy(update={"policy": config.policy.model_copy(update={"name": policy})})
    one = searched(tmp_path / "one", config, restart=False)
    assert one == searched(tmp_path / "two", config, restart=True)
    assert {proposal["proposer"] for proposal in one} == {"baseline", "grammar", "random"}
    for number, proposal in enumerate(one):
        allowed = {n for n in range(number - 1) if n % 5 != 4}
        assert proposal["saw"] == (sorted(allowed) if proposal["proposer"] == "grammar" else [])
        assert proposal["parent"] in (allowed | {0, None} if number else {None})
    assert any(proposal["parent"] not in (0, None) for proposal in one), "nothing was built upon"


def test_proposers_are_drawn_as_often_as_their_shares_say() -> None:
    shares = {"random": 0.2, "grammar": 0.8}
    drawn = [draw_proposer(shares, np.random.default_rng([7, number])) for number in range(2000)]
    assert stats.binomtest(drawn.count("random"), 2000, 0.2).pvalue > 1e-4
    assert drawn == [
        draw_proposer(dict(sorted(shares.items())), np.random.default_rng([7, n])) for n in range(2000)
    ]


def test_a_family_is_the_parents_line_and_its_children() -> None:
    def one(number: int, parent: int | None) -> KnownCandidate:
        return KnownCandidate(number, "", "", {}, None, None, "finished", parent, baseline=parent is None)

    # 0 and 1 are baselines; 2 -> 4 -> 6 is the line of 6
    known = [
        one(0, None),
        one(1, None),
        one(2, 0),
        one(3, 1),
        one(4, 2),
        one(5, 2),
        one(6, 4),
        one(7, 6),
        one(8, 3),
    ]
    known.append(one(9, 0))  # of another family
    assert [member.id for member in family_of(known[6], known)] == [2, 4, 5, 6, 7]
    assert [member.id for member in family_of(known[1], known)] == [3]
    assert [member.id for member in family_of(one(10, 8), known)] == [3, 8]
    many = [one(0, None), *(one(number, 0) for number in range(1, 40))]
    assert [member.id for member in family_of(many[0], many)] == list(range(28, 40))


def test_the_users_own_programs_are_the_first_candidates(tmp_path: Path) -> None:
    own, path = tmp_path / "my mixer.py", tmp_path / "c.yaml"
    own.write_text("class Mixer: ...\n")
    path.write_text(
        f"name: own\npreset: demo\nseed: 0\nprograms: ['{own}']\nproposers: {{llm: 1.0}}\n"
        "llm: {model: m, base_url: 'http://h'}\n"
    )
    config, run = load_config(path), RunLayout(tmp_path / "run")
    drafted: list[int] = []
    research = cast(
        Research, SimpleNamespace(draft=lambda n, *_: drafted.append(n), forget_draft=lambda _: None)
    )
    store, journal = ProposalStore(run, config, research), Journal(run.root, config)
    journal.propose(store, 0, backwards=False)
    store.begin(1, (), journal.state)
    assert not drafted  # the LLM is not asked for what is there
    stored = store.make(1, (0,), journal.state)
    assert stored is not None
    assert (stored.proposal.name, stored.proposal.proposer, stored.proposal.parent) == (
        "my_mixer",
        "own",
        None,
    )
    assert run.program(1).read_text() == own.read_text()
    own.unlink()
    assert store.make(1, (0,), journal.state) == stored  # the campaign has its copy
    new = RunLayout(tmp_path / "new")
    with pytest.raises(UserError, match=r"my mixer\.py cannot be read .*No such file"):
        ProposalStore(new, config, research).make(1, (), journal.state)
    assert ProposalStore(new, config, research, recorded=run).make(1, (), journal.state) == stored
