"""The prompts' files, a campaign's own, and the contract held against the code that it describes."""

import inspect
import re
from pathlib import Path

import pytest

import asiarch.kernels
from asiarch.agents.llm.prompts import NAMES, SHIPPED, Prompts
from asiarch.agents.llm.roles.parts import Part, contract, fit
from asiarch.agents.llm.text import tokens
from asiarch.models.check.program import CHECK_NAMES
from asiarch.models.errors import UserError
from asiarch.models.static_policy import ALLOWED_MODULES

CONTRACT = (SHIPPED / "contract.md").read_text(encoding="utf-8")


def signature(name: str) -> str:
    """`name(q, k, *, scale=None)`, from the function itself."""
    parts: list[str] = []
    for parameter in inspect.signature(getattr(asiarch.kernels, name)).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in parts:
            parts.append("*")
        bare = parameter.default is parameter.empty
        parts.append(parameter.name if bare else f"{parameter.name}={parameter.default!r}")
    return f"{name}({', '.join(parts)})"


def section(name: str) -> str:
    return CONTRACT.split(f"## {name}\n")[1].split("\n## ")[0]


def test_the_contract_has_every_operator_as_it_is() -> None:
    told = re.findall(r"(?:^- |, )(\w+\([^)]*\))", section("Operators").replace('"', "'"), re.MULTILINE)
    assert sorted(told) == sorted(map(signature, asiarch.kernels.__all__))


def test_the_contract_has_every_check_in_its_order() -> None:
    assert tuple(re.findall(r"^- (\w+): ", section("Rules"), re.MULTILINE)) == CHECK_NAMES


def test_the_contract_allows_what_the_policy_allows() -> None:
    (within, others) = re.findall(
        r"imports only from torch \((.*?), \.\.\.\), (.*?)\. No ", section("Rules")
    )[0]
    told = {"torch", *(f"torch.{name}" for name in within.split(", ")), *others.split(", ")}
    assert len(told) == 11
    assert told <= ALLOWED_MODULES


def test_the_contract_is_cut_by_sections() -> None:
    prompts = Prompts.load()
    sections = prompts.contract_sections()
    assert [text.splitlines()[0] for text in sections[:3]] == ["## The contract", "## Rules", "## Operators"]
    assert contract(prompts, 0) == sections[0]
    assert contract(prompts, 10_000) == "\n\n".join(sections)
    assert tokens(contract(prompts, 900)) <= 900
    assert tokens(sections[0]) < 200  # it is in every prompt, also in a context of 2,048


def own(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_a_campaigns_prompt_takes_the_shipped_ones_place(tmp_path: Path) -> None:
    own(tmp_path, "judge.md", "Be hard. It costs $$5.\n---\n${programs}\n\n\n\nJudge.\n")
    prompts = Prompts.load(tmp_path)
    assert prompts.fill("judge", {"programs": "P $x"}) == ("Be hard. It costs $5.", "P $x\n\nJudge.")
    assert {name for name in NAMES if prompts.texts[name] != Prompts.load().texts[name]} == {"judge"}


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        (
            "judge.md",
            "a\n---\nb $programs $scores",
            r"unknown placeholder \$scores; this prompt's are \$programs",
        ),
        ("judge.md", "a\n---\nb", r"the placeholder \$programs is missing"),
        ("judge.md", "a\n---\nb $programs\ncosts 5$.", r"judge.md:4: a \$ that begins no placeholder"),
        ("judge.md", "a $programs", r"need one line ---"),
        ("judge.md", "a\n---\n$programs\n---\nb", r"need one line ---"),
        ("jugde.md", "a", r"no prompt has this name; there are analyst, contract, judge"),
        ("contract.md", "## A\n$form", r"unknown placeholder \$form; this prompt's are none"),
    ],
)
def test_a_bad_prompt_is_one_line_that_names_file_and_placeholder(
    tmp_path: Path, name: str, text: str, says: str
) -> None:
    with pytest.raises(UserError, match=says) as error:
        Prompts.load(own(tmp_path, name, text))
    assert str(error.value).startswith(str(tmp_path / name))
    assert "\n" not in str(error.value)


def test_a_prompt_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "judge.md").write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"judge.md: not UTF-8 text \(byte 0\)"):
        Prompts.load(tmp_path)


def test_what_is_needed_first_is_left_out_last() -> None:
    words = "word " * 50
    parts = [
        Part("first", (words,), "First:"),
        Part("second", (words, "short"), "Second:"),
        Part("third", (words,)),
    ]
    assert all(fit(parts, 1000).values())
    assert fit(parts, 80) == {
        "first": f"First:\n\n{words}".strip(),
        "second": "Second:\n\nshort",
        "third": "",
    }
    assert not any(fit(parts, 3).values())
    (cut,) = fit([Part("log", (words * 9,), "Log:", cuttable=True)], 120).values()
    assert "characters left out]" in cut
    assert tokens(cut) <= 120
