"""The scheduler's decisions, with simulated trials: a trial here is a random number and a random duration."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asiarch.hpc.config import CampaignConfig, load_config
from asiarch.hpc.schedule import (
    BeginDraft,
    CalibrateJudge,
    CheckProgram,
    EndProposals,
    Finish,
    Promote,
    Propose,
    Reflect,
    Repair,
    Scheduler,
    StopEarly,
    Submit,
)
from asiarch.hpc.state import CampaignState

RUNGS = 3


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> CampaignConfig:
    path: Path = tmp_path_factory.mktemp("config") / "c.yaml"
    path.write_text(
        "name: simulated\npreset: demo\nseed: 0\nrungs: [0.2, 0.5, 1.0]\nseeds: 2\n"
        "budget: {candidates: 12}\nsearch: {in_flight: 3}\n"
    )
    return load_config(path)


@pytest.fixture(scope="module")
def with_llm(config: CampaignConfig) -> CampaignConfig:
    llm = config.llm.model_copy(update={"model": "/w", "judge": True})
    return config.model_copy(update={"llm": llm, "proposers": {"llm": 1.0}})


OF_THE_LLM = (Propose, BeginDraft, Repair, CalibrateJudge, Reflect)


class Simulation:
    """Applies the scheduler's actions; trials end in an order drawn from `order`, with numbers of their own.

    What the LLM does is done at a later look as likely as at this one.
    """

    def __init__(self, config: CampaignConfig, order: np.random.Generator, restart: float = 0.0) -> None:
        self.has_llm = config.llm.is_there
        self.drafted: dict[int, tuple[int, ...]] = {}
        self.most_drafted = 0
        self.scheduler = Scheduler(config)
        self.order = order
        self.restart = restart
        self.events: list[dict[str, Any]] = []
        self.state = CampaignState()
        self.running: list[tuple[int, int, int]] = []
        self.seconds: dict[str, float] = {}
        self.seen: dict[int, tuple[int, ...]] = {}
        self.write("campaign_started", seeds=[0, 1], rungs=RUNGS)

    def write(self, event: str, **fields: Any) -> None:
        record = {"time": f"2026-01-01T00:00:{len(self.events) % 60:02d}+00:00", "event": event, **fields}
        self.events.append(record)
        self.state.apply(record)

    def run(self) -> CampaignState:
        while not self.state.finished:
            if self.order.random() < self.restart:
                self.state = CampaignState.replay(self.events)
            waited = False
            for action in self.scheduler.actions(self.state):
                if isinstance(action, BeginDraft):
                    self.drafted.setdefault(action.candidate, action.known)
                    ahead = [number for number in self.drafted if number >= len(self.state.candidates)]
                    self.most_drafted = max(self.most_drafted, len(ahead))
                    continue
                if not (self.has_llm and isinstance(action, OF_THE_LLM) and self.order.random() < 0.5):
                    self.act(action)
                    break
                waited = True
            else:
                assert self.running or waited, "the scheduler waits although nothing runs"
                if self.running:
                    self.finish_one()
        return self.state

    def act(self, action: object) -> None:
        if isinstance(action, Propose):
            self.seen[action.candidate] = action.known
            fields = {"name": "x", "proposer": "p", "parent": None, "fingerprint": str(action.candidate)}
            fields |= {"may_repair": 1} if self.has_llm else {}
            self.write("proposed", candidate=action.candidate, baseline=action.candidate == 0, **fields)
        elif isinstance(action, CheckProgram):
            refused = action.candidate % 5 == 4
            self.write("refused" if refused else "accepted", candidate=action.candidate, reason="leak")
        elif isinstance(action, Submit):
            self.running += [(action.candidate, action.rung, seed) for seed in action.seeds]
            seeds = list(action.seeds)
            self.write(
                "submitted",
                candidate=action.candidate,
                rung=action.rung,
                seeds=seeds,
                jobs=["j"] * len(seeds),
            )
        elif isinstance(action, CalibrateJudge):
            self.write("judge_calibrated", usable=True, reason="", scores={"0": 5.0})
        elif isinstance(action, Reflect):
            self.write("judged", candidate=action.candidate, score=6.0, reason="")
            self.write("analysed", candidate=action.candidate)
        elif isinstance(action, Repair):
            self.write("repaired", candidate=action.candidate, fingerprint="mended", reason="")
        elif isinstance(action, Promote):
            self.write("promoted", candidate=action.candidate, rung=action.rung)
        elif isinstance(action, StopEarly):
            self.write("stopped_early", candidate=action.candidate, rung=action.rung, reason=action.reason)
        elif isinstance(action, EndProposals):
            self.write("budget_reached", reason=action.reason)
        elif isinstance(action, Finish):
            self.write("campaign_finished")

    def finish_one(self) -> None:
        candidate, rung, seed = key = self.running.pop(int(self.order.integers(len(self.running))))
        names = {"candidate": candidate, "rung": rung, "seed": seed}
        number = np.random.default_rng(key)
        if self.order.random() < 0.1:
            self.write("trial_interrupted", **names, cause="killed", detail="", counts=1, reached="", node="")
        elif candidate == 6:
            self.write("trial_failed", **names, cause="diverged", detail="nan")
        else:
            loss = 3 - 0.3 * rung + 0.1 * number.random()
            numbers = {"validation_loss": loss, "test_loss": loss, "tokens_per_s": 1.0, "parameters": 1}
            errors = {
                "validation_error": 0.01,
                "test_error": 0.01,
                "validation_windows": 9,
                "test_windows": 9,
            }
            summary = {**names, **numbers, **errors, "tasks": {}}
            self.write("trial_finished", **names, summary=summary, seconds=self.seconds)


def outcome(state: CampaignState) -> list[tuple[int, str, int, str]]:
    return [(c.id, c.status, c.rung, c.reason) for c in state.candidates.values()]


@settings(max_examples=40, deadline=None)
@given(first=st.integers(0, 2**32), second=st.integers(0, 2**32))
def test_neither_timing_nor_restarts_change_what_is_searched(
    config: CampaignConfig, first: int, second: int
) -> None:
    one = Simulation(config, np.random.default_rng(first))
    two = Simulation(config, np.random.default_rng(second), restart=0.2)
    assert outcome(one.run()) == outcome(two.run())
    assert one.seen == two.seen


@settings(max_examples=40, deadline=None)
@given(first=st.integers(0, 2**32), second=st.integers(0, 2**32))
def test_nor_does_the_time_that_an_llm_takes(with_llm: CampaignConfig, first: int, second: int) -> None:
    one = Simulation(with_llm, np.random.default_rng(first))
    two = Simulation(with_llm, np.random.default_rng(second), restart=0.2)
    assert outcome(one.run()) == outcome(two.run())
    assert one.seen == two.seen
    # what was begun ahead knew what the proposal was to know
    assert all(one.seen[number] == known for number, known in one.drafted.items())


def test_results_are_reflected_on_before_they_are_built_on_and_a_broken_program_is_mended_once(
    with_llm: CampaignConfig,
) -> None:
    simulation = Simulation(with_llm, np.random.default_rng(0))
    state = simulation.run()
    order = [(event["event"], event.get("candidate")) for event in simulation.events]
    for candidate in state.candidates.values():
        if candidate.status in ("finished", "stopped") and not candidate.baseline:
            assert candidate.judgement == 6.0
            builds_on_it = ("proposed", candidate.id + with_llm.search.in_flight)
            if builds_on_it in order:
                assert order.index(("analysed", candidate.id)) < order.index(builds_on_it)
    mended = state.candidates[6]
    assert (mended.status, mended.repairs, mended.fingerprint, mended.proposed_as) == (
        "failed",
        1,
        "mended",
        "6",
    )
    assert order.count(("accepted", 6)) == 2
    # the judge's scores of the baselines are a part of what proposals know
    assert order.index(("judge_calibrated", None)) < order.index(("proposed", 1))
    assert state.judge == {"usable": True, "reason": ""}


@pytest.mark.parametrize("mode", ["deterministic", "free_running"])
def test_an_llm_works_at_several_drafts_at_a_time(with_llm: CampaignConfig, mode: str) -> None:
    search = with_llm.search.model_copy(update={"mode": mode, "in_flight": 6})
    simulation = Simulation(with_llm.model_copy(update={"search": search}), np.random.default_rng(0))
    simulation.run()
    # the proposal itself, the reference in training, and what is begun beside them
    assert simulation.most_drafted == 6 - 2


def test_every_kind_of_end_occurs_and_is_counted(config: CampaignConfig) -> None:
    state = Simulation(config, np.random.default_rng(0)).run()
    ends = {c.status for c in state.candidates.values()}
    assert ends == {"refused", "stopped", "failed", "finished"}
    assert state.candidates[0].status == "finished"
    assert len(state.candidates) == 13


def test_a_proposal_sees_only_candidates_at_least_the_lag_behind(config: CampaignConfig) -> None:
    simulation = Simulation(config, np.random.default_rng(1))
    simulation.run()
    assert simulation.seen[8] == tuple(range(8 - 3 + 1))
    assert simulation.seen[1] == ()


def test_only_the_best_share_climbs(config: CampaignConfig) -> None:
    simulation = Simulation(config, np.random.default_rng(2))
    state = simulation.run()
    for candidate in state.candidates.values():
        if candidate.status == "stopped":
            rung = candidate.rung
            loss = {
                c.id: np.mean([s.validation_loss for s in c.summaries() if s.key.rung == rung])
                for c in state.candidates.values()
                if 0 < c.id <= candidate.id
                and any(s.key.rung == rung for s in c.summaries())
                and c.status != "failed"
            }
            better = sum(value < loss[candidate.id] for value in loss.values())
            assert better >= np.ceil(config.promote * len(loss)), "one of the best was stopped"


def test_no_proposal_after_the_gpu_hours_are_used(config: CampaignConfig) -> None:
    budget = config.budget.model_copy(update={"gpu_hours": 6.0})
    simulation = Simulation(config.model_copy(update={"budget": budget}), np.random.default_rng(4))
    simulation.seconds = {"gpu_hours": 0.25}
    state = simulation.run()
    assert "GPU-hours are used" in state.proposing_ended
    assert 3 < len(state.candidates) < 13
    assert not state.unsettled


@pytest.mark.parametrize(
    ("limits", "at_most"), [({"max_in_flight": 5}, 5), ({"max_gpus": 12, "gpus_per_node": 2, "nodes": 2}, 3)]
)
def test_no_more_jobs_and_gpus_than_allowed_are_in_flight(
    config: CampaignConfig, limits: dict[str, int], at_most: int
) -> None:
    slurm = config.slurm.model_copy(update=limits)
    simulation = Simulation(
        config.model_copy(update={"executor": "slurm", "slurm": slurm}), np.random.default_rng(5)
    )
    most = 0
    act = simulation.act

    def watched(action: object) -> None:
        nonlocal most
        act(action)
        most = max(most, len(simulation.running))

    simulation.act = watched  # type: ignore[method-assign]
    state = simulation.run()
    assert len(state.candidates) == 13
    assert not state.unsettled
    assert most == at_most


def test_free_running_keeps_the_slots_full(config: CampaignConfig) -> None:
    free = config.model_copy(update={"search": config.search.model_copy(update={"mode": "free_running"})})
    simulation = Simulation(free, np.random.default_rng(3))
    state = simulation.run()
    assert len(state.candidates) == 13
    assert not state.unsettled
