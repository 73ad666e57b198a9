"""The candidate's contract: a program becomes a token-mixer class, and a mixer is run.

A candidate is one Python file with one `torch.nn.Module`, the mixer:

    __init__(self, hidden_size: int, num_heads: int, layer_idx: int | None = None, **config)
    forward(self, hidden_states, attention_mask=None, past_key_values=None, use_cache=False, **kwargs)
        hidden_states (batch, length, hidden_size) -> the same shape, or a tuple that starts with it

A forward that names `cu_seqlens`, as a parameter or as a key of its **kwargs, is given document boundaries where a
campaign has them on (data.document_boundaries): int32 (documents + 1,), rising from 0 to the length, with the batch
laid end to end in one row; nothing may then pass from one document into the next.

torch is imported where a program is run and not before: the head reads errors and policy without it.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import itertools
import linecache
import sys
import traceback
import types
from pathlib import Path
from typing import TYPE_CHECKING

from asiarch.models.fla_compat.imports import TwinImports, WithoutCompile
from asiarch.models.static_policy import ContractError, Finding, parse_program

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = [
    "ContractError",
    "Finding",
    "load_mixer_class",
    "parse_program",
    "read_program",
    "run_mixer",
    "takes_cu_seqlens",
]

_load_number = itertools.count()


def load_mixer_class(
    path: Path | None = None, source: str | None = None, *, compiled: bool = False
) -> type[nn.Module]:
    """The mixer class of a program, given as a file or as its text (`path` then only names it in errors).

    The text must keep the static policy. It is executed in a module of its own name; nothing is added to
    `sys.path`. Of several nn.Module classes the mixer is the one that no other class of the file uses.
    flash-linear-attention's names become their twins, and a program that casts to bfloat16 by name computes
    in its input's dtype (`asiarch.models.fla_compat`). Its own torch.compile is left out unless `compiled`.

    Raises ContractError, with file and line, for a file that cannot be read, a syntax error, a breach of the
    policy, an exception while the file is executed, and a mixer that is missing or ambiguous.
    """
    # imports torch, which reading a program does not
    from asiarch.models.fla_compat.precision import follow_input_dtype, names_low_precision

    if source is None:
        if path is None:
            raise ValueError("give a path or a source")
        source = read_program(path)
    file = str(path) if path is not None else "<candidate>"
    tree = parse_program(source, file)
    mixer_class = _pick_mixer(_execute(source, file, compiled), tree, file)
    if names_low_precision(tree):
        follow_input_dtype(mixer_class)
    return mixer_class


def read_program(path: Path) -> str:
    """The text of a program's file. Raises ContractError when it is missing or not UTF-8."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ContractError(f"{path}: cannot be read: {error.strerror or error}") from None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ContractError.at(str(path), Finding(line, f"is not UTF-8: {error.reason}")) from None


def takes_cu_seqlens(mixer_class: type[nn.Module]) -> bool:
    """Whether a mixer's forward names `cu_seqlens`, as a parameter or as a key of its **kwargs."""
    code = getattr(inspect.unwrap(mixer_class.forward), "__code__", None)
    return code is not None and "cu_seqlens" in (*code.co_varnames, *code.co_consts)


def run_mixer(mixer: nn.Module, hidden_states: Tensor, cu_seqlens: Tensor | None = None) -> Tensor:
    """The output for `hidden_states` (batch, length, hidden_size): a tensor of the same shape and dtype.

    Args:
        cu_seqlens: document boundaries for a batch of one row; see above.

    Raises ContractError when the mixer returns anything else.
    """
    import torch

    output = mixer(hidden_states) if cu_seqlens is None else mixer(hidden_states, cu_seqlens=cu_seqlens)
    if isinstance(output, tuple) and output:
        output = output[0]
    name = type(mixer).__name__
    if not isinstance(output, torch.Tensor):
        raise ContractError(
            f"{name}.forward returned {type(output).__name__}; return a tensor or a tuple starting with it"
        )
    if output.shape != hidden_states.shape:
        raise ContractError(
            f"{name}.forward returned shape {tuple(output.shape)} for an input of shape "
            f"{tuple(hidden_states.shape)}; return the input's shape"
        )
    if output.dtype != hidden_states.dtype:
        raise ContractError(
            f"{name}.forward returned {output.dtype} for an input of {hidden_states.dtype}; cast it back"
        )
    return output


def error_line(error: BaseException, file: str) -> int | None:
    """The line of `file` on which `error` was raised, or through which it came; None when it is not in it."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return lines[-1] if lines else None


def _execute(source: str, file: str, compiled: bool) -> types.ModuleType:
    digest = hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    module = types.ModuleType(f"asiarch_candidate_{digest}_{next(_load_number)}")
    module.__file__ = file
    # inspect.getsource, which torch's own decorators call, finds the text by these two tables
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    sys.modules[module.__name__] = module
    try:
        tree = ast.parse(source, filename=file)
        for rewrite in (TwinImports(), *(() if compiled else (WithoutCompile(),))):
            tree = ast.fix_missing_locations(rewrite.visit(tree))
        exec(compile(tree, file, "exec", dont_inherit=True), module.__dict__)
    except (Exception, SystemExit) as error:
        del sys.modules[module.__name__]
        line = error_line(error, file) or 1
        text = f"raised {type(error).__name__} when it was loaded: {first_line(error)}"
        raise ContractError.at(file, Finding(line, text)) from error
    return module


def first_line(error: BaseException) -> str:
    """The first line of an exception's text, for messages of one line."""
    return next(iter(str(error).strip().splitlines()), "(no message)")


def _pick_mixer(module: types.ModuleType, tree: ast.Module, file: str) -> type[nn.Module]:
    from torch import nn

    classes = {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, nn.Module) and value.__module__ == module.__name__
        if value.__name__ == name  # an alias is not another class
    }
    if not classes:
        raise ContractError.at(file, Finding(1, "defines no torch.nn.Module class; define the token mixer"))
    used = {name: _classes_used(name, tree, set(classes)) for name in classes}
    mixers = [name for name in classes if not any(name in used[other] for other in classes if other != name)]
    if len(mixers) != 1:
        named = ", ".join(f"{name} (line {_definitions(tree)[name].lineno})" for name in mixers or classes)
        reason = "no other class uses them" if mixers else "each is used by another"
        line = _definitions(tree)[(mixers or list(classes))[0]].lineno
        text = f"which class is the mixer is ambiguous between {named}: {reason}; keep one on top"
        raise ContractError.at(file, Finding(line, text))
    return classes[mixers[0]]


def _definitions(tree: ast.Module) -> dict[str, ast.stmt]:
    """The file's top-level names and the statements that make them."""
    found: dict[str, ast.stmt] = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign):
            found.update({t.id: node for t in node.targets if isinstance(t, ast.Name)})
    return found


def _classes_used(name: str, tree: ast.Module, classes: set[str]) -> set[str]:
    """The classes that `name` refers to, also by way of the file's functions and constants."""
    definitions = _definitions(tree)
    reached: set[str] = set()
    todo = [name]
    while todo:
        current = todo.pop()
        if current not in definitions:
            continue
        for node in ast.walk(definitions[current]):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id not in reached:
                reached.add(node.id)
                if node.id not in classes:
                    todo.append(node.id)
    return reached & classes
