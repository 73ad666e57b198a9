"""What a campaign hands to the LLM's roles and takes from them, with a scripted model and a check that accepts all."""

import json
import time
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from scripted_llm import GOOD, ScriptedLlm, program

import asiarch.hpc.research as research_module
from asiarch.agents.llm.model import Answer, Call, LlmError
from asiarch.agents.llm.researcher import Context
from asiarch.agents.llm.roles.novelty import NoveltyAnswer
from asiarch.agents.llm.roles.summariser import Member
from asiarch.agents.proposer import KnownCandidate, Proposal
from asiarch.hpc.checking import Checker
from asiarch.hpc.config import load_config
from asiarch.hpc.language_model import open_language_model
from asiarch.hpc.layout import RunLayout
from asiarch.hpc.research import DraftRequest, Research
from asiarch.models.baselines import baseline_path
from asiarch.models.check import CheckReport, CheckResult
from asiarch.models.errors import UserError
from campaigns import write_campaign

PARENT = KnownCandidate(
    0, "delta_net", baseline_path("delta_net").read_text(), {}, 0.5, 2.0, "finished", None, True
)
FAMILY = (
    Member(3, 0, "early", "a gate", 2.1, "Gates help."),
    Member(5, 3, "late", "no gate", 2.3, "They do."),
)


class ScriptedModel:
    """Answers by role; a role that is out of order raises what is given for it."""

    def __init__(self, **out_of_order: str) -> None:
        self.out_of_order = out_of_order
        self.calls: list[Call[Answer]] = []

    def ask(self, call: Call[Answer]) -> Answer:
        self.calls.append(call)
        if call.role in self.out_of_order:
            raise LlmError(self.out_of_order[call.role], "out of order")  # type: ignore[arg-type]
        words: dict[str, object] = {
            "planner": {"motivation": "m", "hypothesis": "h", "change": "c", "used": [], "name": "shift"}
            | {"program": program(GOOD, call.seed)},
            "summariser": {"worked": ["Gates, by much."], "failed": [], "next": "More gates."},
            "novelty": {"reason": "r", "of": "none", "verdict": "new"},
        }
        return call.answer.model_validate(words[call.role])

    def prompt(self, role: str) -> str:
        return next(call.user for call in self.calls if call.role == role)


class AcceptingChecker:
    def check(self, path: Path, report_path: Path) -> CheckReport:
        return CheckReport.of(str(path), "", 0.0, [CheckResult("construct", True)])


def drafted(model: ScriptedModel, tmp_path: Path, family: tuple[Member, ...] = FAMILY) -> Proposal:
    said: list[str] = []
    values = ["llm.model=/w", "llm.context=16384", "llm.answer=2048", "proposers={llm: 1.0}"]
    config = load_config(write_campaign(tmp_path), values)
    research = Research(RunLayout(tmp_path), config, model, cast(Checker, AcceptingChecker()), said.append)
    rng = np.random.default_rng(0)
    request = DraftRequest(PARENT, (), (PARENT,), Context(), family, rng, frozenset())
    while (found := research.draft(7, 0, lambda: request)) is None:
        time.sleep(0.01)
    return found


def test_what_a_family_has_taught_reaches_the_planner(tmp_path: Path) -> None:
    model = ScriptedModel()
    proposal = drafted(model, tmp_path)
    assert "failed" not in proposal.notes
    lines = model.prompt("summariser")
    assert lines.index("no gate") < lines.index("a gate")  # the newest first
    assert "Gates, by much." in model.prompt("planner")


@pytest.mark.parametrize("family", [(), FAMILY[:1]])
def test_one_candidate_is_no_family(tmp_path: Path, family: tuple[Member, ...]) -> None:
    model = ScriptedModel()
    drafted(model, tmp_path, family)
    assert {call.role for call in model.calls} == {"planner", "novelty"}


def test_a_draft_goes_on_without_a_lesson(tmp_path: Path) -> None:
    model = ScriptedModel(summariser="invalid")
    assert "failed" not in drafted(model, tmp_path).notes
    assert "taught" not in model.prompt("planner")


def test_an_llm_without_a_valid_plan_is_a_candidate_without_a_program(tmp_path: Path) -> None:
    proposal = drafted(ScriptedModel(planner="truncated"), tmp_path)
    assert (proposal.program, proposal.name, proposal.parent) == ("", "no-program", 0)
    assert "out of order" in proposal.notes["failed"]


def test_an_llm_that_cannot_be_had_is_asked_again_and_then_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(research_module, "AGAIN_S", (0.0, 0.0))
    model = ScriptedModel(planner="unavailable")
    with pytest.raises(UserError, match="the LLM cannot be had: out of order; mend it"):
        drafted(model, tmp_path, ())
    assert len(model.calls) == research_module.GIVE_UP


@pytest.mark.parametrize("given", [{}, {"top_p": 0.9, "chat_template_kwargs": {"enable_thinking": False}}])
def test_the_campaign_s_sampling_is_in_each_request(tmp_path: Path, given: dict[str, object]) -> None:
    server = ScriptedLlm((GOOD,))
    settings = [f"llm.base_url='{server.base_url}'", "llm.model=scripted"]
    settings += [f"llm.sampling={json.dumps(given)}"] if given else []
    config = load_config(write_campaign(tmp_path), settings)
    try:
        with open_language_model(RunLayout(tmp_path / "run"), config, None, print) as model:
            assert model is not None
            model.ask(Call("novelty", 1, "0", "You compare.", "New?", NoveltyAnswer, 3, 0.2, 64))
    finally:
        server.close()
    known = {"model", "messages", "seed", "temperature", "max_tokens", "response_format"}
    fields = {name: value for name, value in server.last.items() if name not in known}
    loops = {"min_pattern_size": 8, "max_pattern_size": 64, "min_count": 8}
    assert fields == (given or {"repetition_detection": loops})
