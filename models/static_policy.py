"""The static policy: what a candidate's syntax tree may hold, judged before any of it runs.

It is the first layer against hostile code, not the only one: Python cannot be made safe by reading it, so
an accepted program still runs under limits, in a sandbox. It does not import torch.

The rules: imports from an allow-list; no access to dunder names, frames, or modules behind modules; no
builtins that read, write or evaluate; nothing assigned into an imported module; every attribute name literal.
"""

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from asiarch.models.errors import UserError
from asiarch.models.fla_compat.names import MODULES as TWIN_MODULES
from asiarch.models.fla_compat.names import missing_name

ALLOWED_MODULES = TWIN_MODULES | frozenset(
    {"__future__", "math", "typing", "dataclasses", "collections.abc", "functools", "asiarch.kernels"}
    | {"einops", "einops.layers", "einops.layers.torch"}
    | {"torch", "torch.nn", "torch.nn.functional", "torch.nn.init", "torch.nn.parameter", "torch.nn.modules"}
    | {"torch.nn.utils", "torch.nn.utils.parametrizations", "torch.fft", "torch.linalg", "torch.special"}
    | {"torch.signal", "torch.func", "torch.types", "torch.autograd", "torch.autograd.function"}
    | {"torch.amp", "torch.cuda", "torch.cuda.amp", "torch.compiler", "torch.utils.checkpoint"}
)

# What may not be reached through an allowed module, by its full name: files, processes, code from text
# (torch.jit evaluates type comments, singledispatch and get_type_hints evaluate annotations), and the
# settings of the whole process, which would change how other candidates are measured.
DENIED_NAMES = frozenset(
    {
        *("torch." + name for name in (
            "hub", "distributed", "multiprocessing", "serialization", "package", "jit", "fx", "export", "ops",
            "classes", "library", "onnx", "profiler", "storage", "testing", "overrides", "monitor", "contrib",
            "autograd.profiler", "cuda.memory", "functional.torch", "nn.modules.module", "utils",
            "manual_seed", "seed", "random", "set_rng_state", "cuda.manual_seed", "cuda.manual_seed_all",
            "set_default_dtype", "set_default_device", "set_default_tensor_type", "set_num_threads",
            "set_num_interop_threads", "set_printoptions", "set_float32_matmul_precision",
            "use_deterministic_algorithms", "backends", "compiler.config",
        )),
        *("functools." + name for name in ("singledispatch", "singledispatchmethod", "update_wrapper")),
        *("typing." + name for name in ("get_type_hints", "ForwardRef", "evaluate_forward_ref")),
        "dataclasses.make_dataclass",
        "einops.einops",
    }
)  # fmt: skip
ALLOWED_WITHIN_DENIED = "torch.utils.checkpoint"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


DENIED_BUILTINS = _words("""
    open exec eval compile input breakpoint globals locals vars dir help exit quit memoryview
    copyright credits license
""")
LITERAL_ATTRIBUTE_BUILTINS = frozenset({"getattr", "setattr", "delattr", "hasattr"})

# Attribute names refused on any object, since an object's type is not known here: modules that libraries
# hold in their namespaces; frames and code objects; files, libraries and shared memory.
DENIED_ATTRIBUTES = _words("""
    os sys io subprocess importlib builtins ctypes shutil pathlib socket pickle inspect tempfile urllib
    threading multiprocessing linecache glob runpy torch

    gi_frame gi_code cr_frame cr_code ag_frame ag_code f_globals f_locals f_builtins f_back f_code
    tb_frame tb_next co_code func_globals func_code

    save load tofile fromfile from_file memmap load_library load_inline hub cpp_extension get_type_hints
    export_chrome_trace export_stacks share_memory share_memory_ load_state_dict_from_url
    _C _write_file _dynamo _inductor
""")
HARMLESS_STDLIB_NAMES = frozenset({"abc", "trace", "select", "copy", "signal", "random"})
ALLOWED_DUNDER_NAMES = frozenset({"__name__", "__all__", "__slots__", "__constants__", "__version__"})
_DUNDER = re.compile(r"__\w+__")


@dataclass(frozen=True, order=True)
class Finding:
    """One thing that the policy refuses, at a line of the program."""

    line: int
    text: str


class ContractError(UserError):
    """A program that breaks the contract. The text gives the file, the line, and every finding in order."""

    def __init__(self, message: str, findings: tuple[Finding, ...] = ()) -> None:
        super().__init__(message)
        self.findings = findings

    @classmethod
    def at(cls, file: str, *findings: Finding) -> "ContractError":
        """The error for one or more findings in `file`."""
        first, *others = sorted(findings)
        text = f"{file}:{first.line}: {first.text}" + "".join(f"; line {f.line}: {f.text}" for f in others)
        return cls(text, (first, *others))


def parse_program(source: str, file: str) -> ast.Module:
    """The syntax tree of a program that keeps the policy.

    Raises ContractError, with the line, for a syntax error or for what the policy refuses.
    """
    try:
        tree = ast.parse(source, filename=file)
    except SyntaxError as error:
        raise ContractError.at(file, Finding(error.lineno or 1, f"syntax error: {error.msg}")) from None
    except (ValueError, RecursionError, MemoryError) as error:
        # null bytes, or nesting deeper than the parser's stack
        raise ContractError.at(file, Finding(1, f"cannot be parsed: {error}")) from None
    try:
        findings = find_violations(tree)
    except RecursionError:
        raise ContractError.at(file, Finding(1, "is nested too deeply to be read")) from None
    if findings:
        raise ContractError.at(file, *findings)
    return tree


def find_violations(tree: ast.Module) -> tuple[Finding, ...]:
    """Everything in the tree that the policy refuses, in the order of the lines."""
    visitor = _PolicyVisitor(tree)
    visitor.visit(tree)
    return tuple(sorted(set(visitor.findings)))


class _PolicyVisitor(ast.NodeVisitor):
    def __init__(self, tree: ast.Module) -> None:
        self.findings: list[Finding] = []
        self.imported = dict(_imported_names(tree))
        self.private = set(_private_names_defined(tree))

        self.parameters: list[frozenset[str]] = []

    def refuse(self, node: ast.AST, text: str) -> None:
        self.findings.append(Finding(getattr(node, "lineno", 1), text))

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            if alias.name not in ALLOWED_MODULES:
                self.refuse(node, f"imports {alias.name}, {_not_allowed(alias.name)}")

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.level:
            self.refuse(node, "imports relative to a package; a candidate is one file")
            return
        for alias in node.names:
            full = f"{node.module}.{alias.name}"
            if alias.name == "*":
                self.refuse(node, f"imports * from {node.module}; name what is used")
            elif full not in ALLOWED_MODULES and node.module not in ALLOWED_MODULES:
                self.refuse(node, f"imports from {node.module}, {_not_allowed(str(node.module))}")
            elif full not in ALLOWED_MODULES:
                self._check_dotted(node, full, start=len(f"{node.module}".split(".")))

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self._check_attribute(node, node.attr, stored=not isinstance(node.ctx, ast.Load))
        dotted = self._dotted(node)
        if dotted is None:
            self.visit(node.value)
            return
        if not isinstance(node.ctx, ast.Load):
            self.refuse(node, f"assigns to {dotted}, which is not the program's own")
        self._check_dotted(node, dotted, start=1)
        inner = node.value
        while isinstance(inner, ast.Attribute):
            self._check_attribute(inner, inner.attr, stored=False)
            inner = inner.value

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            if node.id in DENIED_BUILTINS and not any(node.id in names for names in self.parameters):
                self.refuse(node, f"uses {node.id}()")
            elif node.id in LITERAL_ATTRIBUTE_BUILTINS:
                self.refuse(node, f"uses {node.id} other than in a call with a literal name")
            elif self.imported.get(node.id) in ALLOWED_MODULES:
                self.refuse(node, f"uses the module {self.imported[node.id]} as a value")
        else:
            self._check_rebinding(node, node.id)
        if _DUNDER.fullmatch(node.id) and node.id not in ALLOWED_DUNDER_NAMES:
            self.refuse(node, f"uses the name {node.id}")

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> None:
        """A parameter hides a builtin of its name in the body; defaults and decorators are outside of it."""
        for field, value in ast.iter_fields(node):
            names = frozenset(arg.arg for arg in _parameters(node.args)) if field == "body" else frozenset()
            self.parameters.append(names)
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    self.visit(child)
            self.parameters.pop()

    visit_AsyncFunctionDef = visit_FunctionDef
    visit_Lambda = visit_FunctionDef

    def visit_Global(self, node: ast.Global) -> None:
        for name in DENIED_BUILTINS.intersection(node.names):
            self.refuse(node, f"uses {name}()")

    def visit_arg(self, node: ast.arg) -> None:
        self._check_rebinding(node, node.arg)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = node.func.id if isinstance(node.func, ast.Name) else None
        if name in LITERAL_ATTRIBUTE_BUILTINS:
            self._check_literal_attribute(node, str(name))
        elif name == "type" and len(node.args) + len(node.keywords) != 1:
            self.refuse(node, "makes a class with type(); use a class statement")
            self.generic_visit(node)
        else:
            self.generic_visit(node)

    def visit_MatchClass(self, node: ast.MatchClass) -> None:
        # `case object(name=x)` reads the attribute `name`
        for name in node.kwd_attrs:
            self._check_attribute(node, name, stored=False)
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        # as an attribute's name in a table, for getattr by another way
        if isinstance(node.value, str) and _DUNDER.fullmatch(node.value) and node.value != "__main__":
            self.refuse(node, f"holds the text {node.value!r}")

    def _check_rebinding(self, node: ast.AST, name: str) -> None:
        if self.imported.get(name) in ALLOWED_MODULES:
            self.refuse(node, f"rebinds {name}, the imported {self.imported[name]}; choose another name")

    def _check_literal_attribute(self, node: ast.Call, function: str) -> None:
        name = node.args[1] if len(node.args) > 1 else None
        if not (isinstance(name, ast.Constant) and isinstance(name.value, str)):
            self.refuse(node, f"calls {function}() with a name that is not a literal")
        elif function == "hasattr" and _DUNDER.fullmatch(name.value):
            self.visit(node.args[0])  # it answers whether, and hands nothing out
            return
        else:
            self._check_attribute(node, name.value, stored=function != "getattr")
        target = node.args[0] if node.args else None
        if function in ("setattr", "delattr") and target is not None and self._dotted(target) is not None:
            self.refuse(node, f"assigns to {self._dotted(target)}, which is not the program's own")
        for part in (*node.args, *(keyword.value for keyword in node.keywords)):
            self.visit(part)

    def _check_attribute(self, node: ast.AST, name: str, *, stored: bool) -> None:
        if _DUNDER.fullmatch(name):
            if name != "__init__" or stored:
                self.refuse(node, f"reaches for the attribute {name}")
        elif name in DENIED_ATTRIBUTES:
            self.refuse(node, f"reaches for the attribute {name}, which the policy refuses on any object")
        elif name.startswith("_") and not stored and name not in self.private:
            self.refuse(node, f"reaches for the private attribute {name}, which the file does not define")

    def _check_dotted(self, node: ast.AST, dotted: str, start: int) -> None:
        """Refuse a full name such as torch.hub.load; its first `start` parts are an import judged already."""
        parts = dotted.split(".")
        prefixes = [".".join(parts[:end]) for end in range(1, len(parts) + 1)]
        if not (dotted + ".").startswith(ALLOWED_WITHIN_DENIED + "."):
            denied = next((prefix for prefix in prefixes if prefix in DENIED_NAMES), None)
            if denied:
                self.refuse(node, f"reaches for {denied}, which the policy refuses")
        if ".".join(parts[:2]) in TWIN_MODULES or parts[0] == "fla":
            missing = missing_name(dotted)
            if missing:
                self.refuse(node, f"reaches for {dotted}: {missing}")
        if parts[0] == "asiarch" and parts[1:2] != ["kernels"]:
            self.refuse(
                node, f"reaches for {dotted}; of this project a candidate may use asiarch.kernels alone"
            )
        for prefix, part in list(zip(prefixes, parts, strict=True))[start:]:
            hidden = part in sys.stdlib_module_names and part not in HARMLESS_STDLIB_NAMES
            if prefix not in ALLOWED_MODULES and (
                hidden or part in DENIED_ATTRIBUTES or part.startswith("_")
            ):
                self.refuse(node, f"reaches for {dotted}, which the policy refuses")
                return

    def _dotted(self, node: ast.AST) -> str | None:
        """The full name of `a.b.c` where `a` is imported; None for anything else."""
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if not isinstance(node, ast.Name) or node.id not in self.imported:
            return None
        return ".".join((self.imported[node.id], *reversed(parts)))


def _parameters(arguments: ast.arguments) -> Iterator[ast.arg]:
    yield from (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
    yield from (argument for argument in (arguments.vararg, arguments.kwarg) if argument is not None)


def _not_allowed(module: str) -> str:
    if module.split(".")[0] != "fla":
        return "which is not on the list of allowed imports"
    known = ", ".join(
        sorted(name for name in TWIN_MODULES if name.count(".") == 1 and name.startswith("fla."))
    )
    return f"of which nothing is offered here; there are {known} and modules below them"


def _imported_names(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Local name and full name of everything that the file imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield (alias.asname, alias.name) if alias.asname else (alias.name.split(".")[0],) * 2
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def _private_names_defined(tree: ast.Module) -> Iterator[str]:
    """Names that the file itself gives to methods and attributes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.attr if isinstance(node, ast.Attribute) else node.id
        elif isinstance(node, ast.Call) and node.args:
            # register_buffer("_mask", ...)
            name = getattr(node.args[0], "value", None)
            if isinstance(name, str):
                yield name
