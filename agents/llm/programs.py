"""From an answer to a program: code out of fences, whole or as search-and-replace blocks, in a normal form.

What a program may hold is not decided here but by the check (asiarch.models.check).
"""

import ast
import difflib
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from asiarch.agents.llm.text import one_line, printable

_FENCE = re.compile(
    r"^[ \t]*(`{3,}|~{3,})[ \t]*([\w+-]*)[ \t]*\n(.*?)(?:^[ \t]*\1[ \t]*$|\Z)", re.MULTILINE | re.DOTALL
)
_TOO_DEEP = (ValueError, RecursionError, MemoryError)  # null bytes, or nesting deeper than the parser's stack


class EditError(Exception):
    """Blocks that cannot be applied; the text tells the LLM which, why, and what to do."""


@dataclass(frozen=True)
class Block:
    """Replace the one place that reads `search` by `replace`."""

    search: str
    replace: str


def extract(answer: str) -> str:
    """The program in an answer: all of it, or what its fences hold (the longest, an unclosed one to the end)."""
    answer = printable(answer)
    if "\n" not in answer.strip() and "\\n" in answer:  # line ends escaped twice
        answer = answer.replace("\\n", "\n").replace('\\"', '"').replace("\\t", "\t")
    if syntax_error(normalise(answer)) is None:
        return normalise(answer)
    fenced = [
        match[3] for match in _FENCE.finditer(answer) if match[2].lower() in ("", "python", "py", "python3")
    ]
    return normalise(max(fenced, key=len) if fenced else answer)


def normalise(program: str) -> str:
    """Line ends as \\n, no trailing blanks, no common indentation, at most two empty lines in a row, one \\n last.

    Comments and layout stay. Tabs become four spaces.
    """
    lines = [line.rstrip() for line in printable(program).expandtabs(4).split("\n")]
    text = re.sub(r"\n{4,}", "\n\n\n", textwrap.dedent("\n".join(lines))).strip("\n")
    return f"{text}\n" if text else ""


def apply(program: str, blocks: Sequence[Block]) -> str:
    """The program after the blocks, one after the other.

    Raises EditError when there is no block, when the text to be replaced is not there exactly once, or when
    nothing changes.
    """
    if not blocks:
        raise EditError("no block was given; give at least one, or the program stays as it is")
    current = normalise(program)
    for number, block in enumerate(blocks, start=1):
        search, replace = _lines(block.search), _lines(block.replace)
        if not search.strip():
            raise EditError(f"block {number}: its search text is empty; copy the lines to be replaced")
        count = current.count(search)
        if count == 0:
            raise EditError(
                f"block {number}: its search text is not in the program{_nearest(current, search)}"
            )
        if count > 1:
            raise EditError(
                f"block {number}: its search text is in the program {count} times; copy more of the lines around "
                f"the place that you mean (it begins with: {one_line(search, 80)})"
            )
        current = current.replace(search, replace)
    if normalise(current) == normalise(program):
        raise EditError("the blocks change nothing")
    return normalise(current)


def syntax_error(program: str) -> str | None:
    """Why the text is not Python, with the line; None when it is."""
    if not program.strip():
        return "the program is empty"
    try:
        ast.parse(program)
    except SyntaxError as error:
        text = f": {one_line(error.text, 120)}" if error.text and error.text.strip() else ""
        return f"line {error.lineno or 1}: {error.msg}{text}"
    except _TOO_DEEP as error:
        return f"cannot be parsed: {one_line(str(error), 120)}"
    return None


def compact(program: str) -> str:
    """The program without comments, docstrings and annotations of functions, which computes the same.

    Unchanged when it is not Python.
    """
    try:
        return ast.unparse(_Bare().visit(ast.parse(program))) + "\n"
    except (SyntaxError, *_TOO_DEEP):
        return program


def anonymous(program: str) -> str:
    """`compact`, with the classes called Part1, Part2, ...: what a program computes, without what it is called."""
    text = compact(program)
    names = re.findall(r"^class (\w+)", text, re.MULTILINE)
    for number, name in enumerate(names, start=1):
        text = re.sub(rf"\b{name}\b", f"Part{number}", text)
    return text


class _Bare(ast.NodeTransformer):
    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        node.returns = None
        for argument in ast.walk(node.args):
            if isinstance(argument, ast.arg):
                argument.annotation = None
        self.generic_visit(node)
        _drop_docstring(node)
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        self.generic_visit(node)
        _drop_docstring(node)
        return node

    def visit_Module(self, node: ast.Module) -> ast.Module:
        self.generic_visit(node)
        _drop_docstring(node)
        return node


def _drop_docstring(node: ast.FunctionDef | ast.ClassDef | ast.Module) -> None:
    if ast.get_docstring(node, clean=False) is not None:
        node.body = node.body[1:] or ([] if isinstance(node, ast.Module) else [ast.Pass()])


def _lines(text: str) -> str:
    """A block's text in the program's normal form: line ends, trailing blanks; its indentation stays."""
    return "\n".join(line.rstrip() for line in printable(text).expandtabs(4).split("\n")).strip("\n")


def _nearest(program: str, search: str) -> str:
    """Where the program comes closest to the first line that was looked for."""
    first = next(line for line in search.split("\n") if line.strip())
    lines = program.split("\n")
    found = difflib.get_close_matches(first, lines, n=1, cutoff=0.6)
    if not found:
        return "; copy the lines exactly, with their indentation, from the program as it is now"
    number = lines.index(found[0])
    there = "\n".join(lines[number : number + search.count("\n") + 1])
    return f"; copy it exactly. The nearest place, line {number + 1}, reads:\n{there}"
