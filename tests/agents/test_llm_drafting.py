"""Drafts: plans until one is new, checks, and repairs, with the LLM's answers given."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asiarch.agents.llm.drafts import Attempt, Draft, DraftFailed, Findings, OnlyDuplicates, Refusal
from asiarch.agents.llm.model import Call, LlmError, Outcome
from asiarch.agents.llm.prompts import Prompts
from asiarch.agents.llm.researcher import Context, Researcher
from asiarch.agents.llm.settings import RoleSettings
from asiarch.agents.llm.text import tokens
from asiarch.agents.novelty import fingerprint
from asiarch.agents.proposer import KnownCandidate

DELTA_NET = (Path(__file__).parents[2] / "models" / "baselines" / "delta_net.py").read_text()
PARENT = KnownCandidate(0, "delta_net", DELTA_NET, {}, 0.5, 1.25, "finished", None, baseline=True)
PROGRAMS = [f"class Mixer:\n    width = {width}\n" for width in range(9)]
ACCEPTED = Findings()
LEAK = Findings((Refusal("causal", "changing the input at 3 moved the output at 2 by 0.5"),))
PLAN: dict[str, Any] = {
    "motivation": "old keys are never forgotten",
    "hypothesis": "the loss falls by 0.01",
    "change": "decay the state",
    "used": ["c0", "c99"],
    "name": "decayed",
}


class Scripted:
    """Answers from a list, in turn: fields of the answer, or an LlmError's outcome. Keeps the calls."""

    def __init__(self, *answers: dict[str, Any] | Outcome) -> None:
        self.answers, self.calls = list(answers), list[Call[Any]]()

    def ask(self, call: Call[Any]) -> Any:
        self.calls.append(call)
        answer = self.answers.pop(0)
        if isinstance(answer, str):
            raise LlmError(answer, "no luck")
        return call.answer.model_validate(answer)

    @property
    def keys(self) -> list[tuple[str, str]]:
        return [(call.role, call.turn) for call in self.calls]


def plan(program: str, **fields: Any) -> dict[str, Any]:
    return PLAN | {"program": program} | fields


def repair(program: str) -> dict[str, Any]:
    return {"cause": "no mask", "change": "add a mask", "program": program}


def draft(
    model: Scripted,
    findings: Sequence[Findings] = (ACCEPTED,),
    seen: Sequence[str] = (),
    known: Sequence[KnownCandidate] = (PARENT,),
    **settings: Any,
) -> Draft:
    left = list(findings)
    researcher = Researcher(model, Prompts.load(), (), RoleSettings(seed=7, **({"neighbours": 0} | settings)))
    rng = np.random.default_rng(0)
    prints = {fingerprint(program) for program in (*seen, *(one.program for one in known))}
    return researcher.draft(5, PARENT, (), Context(), known, rng, prints, lambda program: left.pop(0))


def outcomes(attempts: Sequence[Attempt]) -> list[tuple[str, str, str, list[str]]]:
    return [
        (one.role, one.turn, one.answered, [refusal.name for refusal in one.findings.refusals])
        for one in attempts
    ]


def test_an_accepted_plan_becomes_a_draft() -> None:
    model = Scripted(plan(f"Here it is:\n```python\n{PROGRAMS[1]}```\n"))
    made = draft(model)
    assert (made.program, made.outcome, made.ended, made.parent) == (PROGRAMS[1], "accepted", "", 0)
    assert made.plan.used_candidates == (0,)  # c99 was not shown
    assert made.plan.origins == ("experience",)
    assert made.saw == (0,)
    assert outcomes(made.attempts) == [("planner", "0", "plan", [])]
    (call,) = model.calls
    assert call.seed == RoleSettings(seed=7).call_seed("planner", 5, "0")
    assert "class DeltaNet" in call.user


def test_a_plan_that_repeats_a_known_program_is_asked_again_with_the_reason() -> None:
    model = Scripted(plan(f'"""Like its parent."""\n{DELTA_NET}'), plan(PROGRAMS[1]))
    made = draft(model)
    assert made.program == PROGRAMS[1]
    assert outcomes(made.attempts) == [
        ("planner", "0", "plan", ["duplicate"]),
        ("planner", "1", "duplicate", []),
    ]
    assert "the same as c0 (delta_net)" in model.calls[1].user
    assert model.calls[0].user != model.calls[1].user


def test_only_duplicates_are_kept_with_what_they_repeat() -> None:
    model = Scripted(*[plan(DELTA_NET)] * 2)
    with pytest.raises(OnlyDuplicates, match="2 plans in a row") as error:
        draft(model, plan_tries=2)
    assert [one.findings.refusals[0].name for one in error.value.attempts] == ["duplicate"] * 2


def test_the_verdict_of_the_llm_refuses_a_plan_and_its_failure_does_not() -> None:
    verdict = {"reason": "both decay the state", "of": "c0", "verdict": "duplicate"}
    model = Scripted(plan(PROGRAMS[1]), verdict, plan(PROGRAMS[2]), "invalid")
    made = draft(model, neighbours=3)
    assert model.keys == [("planner", "0"), ("novelty", "0"), ("planner", "1"), ("novelty", "1")]
    assert made.program == PROGRAMS[2]
    assert "both decay the state" in model.calls[2].user
    assert "the LLM gave no verdict" in made.novelty


def test_a_refused_program_is_repaired_with_what_was_found() -> None:
    model = Scripted(plan(PROGRAMS[1]), repair(PROGRAMS[2]))
    made = draft(model, [LEAK, ACCEPTED])
    assert (made.program, made.outcome, made.repairs) == (PROGRAMS[2], "accepted", 1)
    assert outcomes(made.attempts) == [
        ("planner", "0", "plan", ["causal"]),
        ("repair", "0-0", "refusal", []),
    ]
    assert "moved the output at 2 by 0.5" in model.calls[1].user
    assert PROGRAMS[1].strip() in model.calls[1].user


def test_the_same_failure_twice_ends_the_repairs() -> None:
    again = Findings((Refusal("causal", "changing the input at 8 moved the output at 5 by 1e-3"),))
    model = Scripted(plan(PROGRAMS[1]), repair(PROGRAMS[2]))
    made = draft(model, [LEAK, again])
    assert (made.program, made.outcome) == (PROGRAMS[2], "refused")
    assert made.ended == "the same failure came twice"


def test_repairs_end_after_as_many_as_are_set() -> None:
    model = Scripted(plan(PROGRAMS[1]), repair(PROGRAMS[2]), repair(PROGRAMS[3]))
    found = [Findings((Refusal(name, "bad"),)) for name in ("causal", "cost", "scale")]
    made = draft(model, found, repair_tries=2)
    assert (made.outcome, made.repairs, made.ended) == ("refused", 2, "2 repairs did not mend it")


def test_a_repair_into_what_was_proposed_before_is_a_duplicate() -> None:
    model = Scripted(plan(PROGRAMS[1]), repair(PROGRAMS[2]), repair(PROGRAMS[3]))
    made = draft(model, [LEAK, ACCEPTED, ACCEPTED], seen=[PROGRAMS[2]])
    assert made.program == PROGRAMS[3]
    assert [names for *_, names in outcomes(made.attempts)] == [["causal"], ["duplicate"], []]


def test_syntax_is_repaired_without_running_the_program() -> None:
    model = Scripted(plan("class Mixer\n    width = 1\n"), repair(PROGRAMS[1]))
    made = draft(model, [ACCEPTED])  # a second check would find the list empty
    assert made.program == PROGRAMS[1]
    assert [names for *_, names in outcomes(made.attempts)] == [["syntax"], []]


def test_blocks_change_the_program_as_it_was_shown() -> None:
    blocks = [{"search": "beta = torch.sigmoid(", "replace": "beta = 2 * torch.sigmoid("}]
    lost = [{"search": "gamma = 1", "replace": "gamma = 2"}]
    model = Scripted(PLAN | {"blocks": lost}, {"cause": "not there", "change": "look", "blocks": blocks})
    made = draft(model, edits="blocks")
    assert "beta = 2 * torch.sigmoid(" in made.program
    assert fingerprint(made.program.replace("2 * torch.sig", "torch.sig")) == fingerprint(DELTA_NET)
    assert [names for *_, names in outcomes(made.attempts)] == [["edits"], []]
    assert "gamma = 1" in model.calls[1].user


@pytest.mark.parametrize("outcome", ["invalid", "truncated", "unavailable"])
def test_a_failure_of_the_llm_keeps_what_was_written_before(outcome: Outcome) -> None:
    with pytest.raises(DraftFailed) as error:
        draft(Scripted(plan(DELTA_NET), outcome))
    assert error.value.outcome == outcome
    assert [one.turn for one in error.value.attempts] == ["0"]


def test_an_llm_that_goes_away_during_repairs_fails_the_draft_and_an_invalid_answer_ends_it() -> None:
    with pytest.raises(DraftFailed) as error:
        draft(
            Scripted(plan(PROGRAMS[1]), repair(PROGRAMS[2]), "unavailable"),
            [LEAK, Findings((Refusal("cost", ""),))],
        )
    assert [one.role for one in error.value.attempts] == ["planner", "repair"]
    made = draft(Scripted(plan(PROGRAMS[1]), "invalid"), [LEAK])
    assert (made.outcome, made.program) == ("refused", PROGRAMS[1])
    assert "no valid repair (invalid" in made.ended


def test_a_draft_made_again_asks_the_same_until_what_was_seen_since() -> None:
    """So that a transcript answers it: no (role, turn) may come with another prompt."""
    verdicts = [{"reason": "another mechanism", "of": "none", "verdict": "new"}] * 2
    refused = Findings((Refusal("cost", "quadratic"),))
    first = Scripted(plan(PROGRAMS[1]), verdicts[0], repair(PROGRAMS[2]), repair(PROGRAMS[3]))
    draft(first, [LEAK, refused, ACCEPTED], neighbours=3)
    for since in PROGRAMS[1], PROGRAMS[2], PROGRAMS[3]:
        again = Scripted(
            *(plan(PROGRAMS[1]), verdicts[0]),
            *((plan(PROGRAMS[4]), verdicts[1]) if since == PROGRAMS[1] else ()),
            *(repair(PROGRAMS[2]), repair(PROGRAMS[3]), repair(PROGRAMS[5])),
        )
        draft(again, [LEAK, refused, ACCEPTED, ACCEPTED], seen=[since], neighbours=3)
        asked = {(call.role, call.turn): (call.system, call.user) for call in first.calls}
        shared = [call for call in again.calls if (call.role, call.turn) in asked]
        assert len(shared) >= 2
        assert all(asked[call.role, call.turn] == (call.system, call.user) for call in shared)


def test_a_failure_in_training_is_repaired_from_the_turn_given() -> None:
    traceback = (
        'File "/home/someone/run/candidates/0005/architecture.py", line 3\nRuntimeError: <<end of finding>>'
    )
    model = Scripted(repair(PROGRAMS[2]))
    researcher = Researcher(model, Prompts.load(), (), RoleSettings())
    failure = Findings((Refusal("training", traceback),))
    mended = researcher.repair(
        5, PROGRAMS[1], failure, set(), lambda program: ACCEPTED, motivation="decay", turn_offset=3
    )
    assert (mended.outcome, mended.program, mended.change) == ("accepted", PROGRAMS[2], "add a mask")
    (call,) = model.calls
    assert call.turn == "3"
    assert "RuntimeError" in call.user
    assert "architecture.py" in call.user
    assert "/home" not in call.user


@pytest.mark.parametrize("edits", ["whole", "blocks"])
def test_a_small_context_holds_the_baseline_and_an_answer(edits: str) -> None:
    model = Scripted("invalid")
    with pytest.raises(DraftFailed, match="no luck"):
        draft(model, edits=edits, context=2048, program_tokens=768, text_tokens=768)
    (call,) = model.calls
    assert tokens(call.system) + tokens(call.user) + call.max_tokens <= 2048
    assert "return self.o_proj(rms_norm(o, self.norm_weight).flatten(-2))" in call.user


def test_a_context_that_is_too_small_is_said() -> None:
    with pytest.raises(DraftFailed, match="longer context") as error:
        draft(Scripted(), context=1024)
    assert error.value.outcome == "overlong"


def test_a_plan_that_repeats_a_repaired_program_is_seen_without_its_fingerprint() -> None:
    repaired = replace(PARENT, id=1, program=PROGRAMS[2])
    model = Scripted(plan(PROGRAMS[2]), plan(PROGRAMS[1]))
    researcher = Researcher(model, Prompts.load(), (), RoleSettings(neighbours=0))
    rng = np.random.default_rng(0)
    made = researcher.draft(
        5, PARENT, (), Context(), (PARENT, repaired), rng, set(), lambda program: ACCEPTED
    )
    assert "c1" in made.attempts[0].findings.refusals[0].message
    assert made.program == PROGRAMS[1]
