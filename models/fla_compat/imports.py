"""What is rewritten of a program before it runs: imports from flash-linear-attention, and its own torch.compile."""

import ast
from functools import lru_cache
from importlib import import_module
from types import SimpleNamespace

from asiarch.models.fla_compat.names import MODULES, PLACES, below

PACKAGE = "asiarch.models.fla_compat"


class TwinImports(ast.NodeTransformer):
    """Rewrites the import statements of a program that keeps the static policy; lines stay as they were."""

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | list[ast.AST]:
        if node.level or node.module not in MODULES:
            return node
        return [
            _import(node, f"{PACKAGE}.{home}", alias.name, alias.asname or alias.name)
            if (home := PLACES.get(node.module, {}).get(alias.name))
            else _import(
                node, f"{PACKAGE}.imports", f"{node.module}.{alias.name}", alias.asname or alias.name
            )
            for alias in node.names
        ]

    def visit_Import(self, node: ast.Import) -> ast.AST | list[ast.AST]:
        found: list[ast.AST] = []
        for alias in node.names:
            if alias.name not in MODULES:
                found.append(ast.copy_location(ast.Import([alias]), node))
            elif alias.asname:
                found.append(_import(node, f"{PACKAGE}.imports", alias.name, alias.asname))
            else:  # `import fla.modules` binds `fla`
                root = alias.name.split(".")[0]
                found.append(_import(node, f"{PACKAGE}.imports", root, root))
        return found


class WithoutCompile(ast.NodeTransformer):
    """Leaves out torch.compile: without it a function is the same, and no compiler is needed nor waited for."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.decorator_list = [part for part in node.decorator_list if not _is_compile(part)]
        return self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.decorator_list = [part for part in node.decorator_list if not _is_compile(part)]
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        return node.args[0] if _is_compile(node) and len(node.args) == 1 else node


def _is_compile(node: ast.expr) -> bool:
    """Whether this is torch.compile, or a call of it."""
    if isinstance(node, ast.Call):
        node = node.func
    return (
        isinstance(node, ast.Attribute)
        and node.attr == "compile"
        and isinstance(node.value, ast.Name)
        and node.value.id == "torch"
    )


def _import(node: ast.stmt, module: str, name: str, local: str) -> ast.AST:
    return ast.copy_location(ast.ImportFrom(module, [ast.alias(name, local)], 0), node)


def __getattr__(name: str) -> SimpleNamespace:
    """A module of flash-linear-attention by its full name, for programs that import it as a whole."""
    if name not in MODULES:
        raise AttributeError(name)
    return _namespace(name)


@lru_cache
def _namespace(place: str) -> SimpleNamespace:
    names = {
        name: getattr(import_module(f"{PACKAGE}.{home}"), name)
        for name, home in PLACES.get(place, {}).items()
    }
    modules = {name: _namespace(f"{place}.{name}") for name in below(place)}
    return SimpleNamespace(**modules, **names)
