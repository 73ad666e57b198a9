"""Programs out of answers: fences, normal form, blocks, syntax."""

import ast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asiarch.agents.llm.programs import (
    Block,
    EditError,
    anonymous,
    apply,
    compact,
    extract,
    normalise,
    syntax_error,
)
from asiarch.agents.novelty import fingerprint
from asiarch.models.baselines import BASELINES, baseline_path

PROGRAM = "import torch\n\n\nclass Mixer:\n    def f(self, x):\n        return x + 1\n"
FEW = settings(max_examples=60, deadline=None)
LINES = st.lists(
    st.sampled_from(["a = 1", "  b = 2", "", "\tc", "d  ", "é\r", "# note\f", "'''"]), max_size=12
)


@pytest.mark.parametrize(
    "answer",
    [
        PROGRAM,
        f"```python\n{PROGRAM}```",
        f"Here it is:\n```py\n{PROGRAM}```\nIt adds one. ```x```",
        f"```\npip install x\n```\n~~~\n{PROGRAM}~~~",
        f"```python\n{PROGRAM}",
        PROGRAM.replace("\n", "\r\n").replace("x):", "x):   "),
        "\n\n    " + PROGRAM.replace("\n", "\n    ") + "\n\n",
        PROGRAM.replace("\n", "\\n"),
        PROGRAM.replace("        ", "\t\t").replace("    def", "\tdef"),
    ],
    ids=[
        "plain",
        "fence",
        "words",
        "two fences",
        "unclosed",
        "line ends",
        "indented",
        "escaped twice",
        "tabs",
    ],
)
def test_the_program_is_found_in_an_answer(answer: str) -> None:
    assert extract(answer) == PROGRAM


def test_a_fence_in_a_docstring_is_no_fence() -> None:
    program = 'def f():\n    """As in\n\n    ```\n    f()\n    ```\n    """\n'
    assert extract(program) == program


@FEW
@given(LINES)
def test_the_normal_form_is_one(lines: list[str]) -> None:
    text = normalise("\n".join(lines))
    assert normalise(text) == text
    assert not any(line != line.rstrip() for line in text.split("\n"))
    assert text == "" or (text.endswith("\n") and not text.endswith("\n\n"))


@FEW
@given(st.data())
def test_a_block_of_whole_lines_replaces_just_them(data: st.DataObject) -> None:
    """Against replacing the same lines by their numbers."""
    lines = [f"x{number} = {number}" for number in range(data.draw(st.integers(1, 8)))]
    first = data.draw(st.integers(0, len(lines) - 1))
    last = data.draw(st.integers(first, len(lines) - 1))
    new = data.draw(st.lists(st.sampled_from(["y = 1", "z = 2"]), min_size=1, max_size=3))
    block = Block("\n".join(lines[first : last + 1]), "\n".join(new))
    expected = lines[:first] + new + lines[last + 1 :]
    assert apply("\n".join(lines), [block]) == "\n".join(expected) + "\n"


def test_blocks_apply_one_after_the_other() -> None:
    changed = apply(
        PROGRAM,
        [Block("x + 1", "x + 2"), Block("\n        return x + 2\n", "        y = x + 2\n        return y")],
    )
    assert changed == PROGRAM.replace("return x + 1", "y = x + 2\n        return y")


@pytest.mark.parametrize(
    ("blocks", "says"),
    [
        ([], "no block was given"),
        ([Block("x + 1", "x + 2"), Block("x + 1", "x")], r"block 2: .* is not in the program"),
        ([Block("    return x +1", "x")], r"nearest place, line 6, reads:\n        return x \+ 1"),
        ([Block("x", "y")], r"is in the program 3 times"),
        ([Block(" \n", "y")], "search text is empty"),
        ([Block("x + 1", "x + 1")], "change nothing"),
    ],
)
def test_a_block_that_does_not_fit_says_why(blocks: list[Block], says: str) -> None:
    with pytest.raises(EditError, match=says):
        apply(PROGRAM, blocks)


@pytest.mark.parametrize(
    ("program", "says"),
    [
        (PROGRAM, None),
        ("", "empty"),
        ("import torch\nclass Mixer(:\n    pass", r"line 2: .*class Mixer\(:"),
        ("x = \x00", "null bytes|invalid"),
        ("(" * 3000, "."),
    ],
)  # fmt: skip
def test_a_syntax_error_names_its_line(program: str, says: str | None) -> None:
    found = syntax_error(program)
    if says is None:
        assert found is None
    else:
        with pytest.raises(AssertionError, match=says):
            raise AssertionError(found)


@pytest.mark.parametrize("name", BASELINES)
def test_a_compact_program_computes_the_same(name: str) -> None:
    program = baseline_path(name).read_text()
    short = compact(program)
    assert fingerprint(short) == fingerprint(program)
    assert len(short) < 0.85 * len(program)
    assert '"""' not in short


def test_an_anonymous_program_has_no_telling_names() -> None:
    program = baseline_path("gated_delta_net").read_text()
    text = anonymous(program)
    assert "GatedDeltaNet" not in text
    assert "Gated Delta" not in text
    assert "class Part1(" in text
    assert fingerprint(text) == fingerprint(program)
    assert anonymous("not python (") == "not python ("
    ast.parse(text)
