"""Are two programs the same? A fingerprint of the syntax tree that ignores what does not compute.

Ignored: formatting, comments, docstrings, annotations, import style, the order of keyword arguments, and the
names of classes, functions, locals, parameters and the attributes of `self`. Everything else counts, numbers
included. Renaming is one to one, so different trees never share a print. The reverse has limits: reordered
statements, rewritten algebra, a renamed attribute reached through an object other than `self`, or a renamed
parameter passed by keyword to a submodule, look different.
"""

import ast
import hashlib
from collections.abc import Iterator
from functools import lru_cache

# names through which torch or Python reaches a method; renaming one changes what the program does
_FIXED_METHODS = {"forward", "reset_parameters", "extra_repr"}
_REGISTERS = {"register_buffer", "register_parameter", "add_module", "register_module"}
_Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


@lru_cache(maxsize=4)  # a new program's is asked for by its proposer and by who stores it
def fingerprint(program: str) -> str:
    """SHA-256 (hex) of a program's normalised syntax tree. Raises SyntaxError when it is not Python."""
    tree = ast.parse(program)
    return hashlib.sha256(_text(_Normaliser(tree).visit(tree)).encode()).hexdigest()


class _Normaliser(ast.NodeTransformer):
    """Replaces names by numbers in the order of their appearance, scope by scope."""

    def __init__(self, tree: ast.Module) -> None:
        self.imported = dict(_imports(tree))
        defined = [node.name for node in tree.body if isinstance(node, (*_FUNCTIONS[:2], ast.ClassDef))]
        assigned = [name for node in tree.body for name in _bound(node)]
        scope = {name: f"#m{i}" for i, name in enumerate(dict.fromkeys(defined + assigned))}
        self.scopes: list[dict[str, str]] = [scope]
        self.attributes: dict[str, str] = {}
        self.receivers: list[str | None] = [None]
        self.parameters = dict(_signatures(tree))

    def visit_Module(self, node: ast.Module) -> ast.Module:
        node.body = self._block(node.body)
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        outer = self.attributes
        self.attributes = {name: f"#a{i}" for i, name in enumerate(_attributes(node))}
        node.bases = [self.visit(base) for base in node.bases]
        node.keywords = self._keywords(node.keywords, {})
        node.decorator_list = [self.visit(decorator) for decorator in node.decorator_list]
        # a class body's names are attributes, but reads in it see them as plain names
        self.scopes.append(dict(self.attributes))
        node.body = self._block(node.body, in_class=True)
        self.scopes.pop()
        node.name = self._name(node.name)
        self.attributes = outer
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        return self._function(node, method=False)

    def _function(self, node: ast.FunctionDef, method: bool) -> ast.FunctionDef:
        node.decorator_list = [self.visit(decorator) for decorator in node.decorator_list]
        node.returns = None
        node.type_comment = None
        node.name = self.attributes.get(node.name, node.name) if method else self._name(node.name)
        arguments = [*node.args.posonlyargs, *node.args.args]
        receiver = arguments[0].arg if method and arguments else self.receivers[-1]
        self._enter(node, receiver)
        # methods see the module's names, not the class body's
        node.args = self.visit(node.args)
        node.body = self._block(node.body)
        self._leave()
        return node

    def visit_Lambda(self, node: ast.Lambda) -> ast.Lambda:
        self._enter(node, self.receivers[-1])
        node.args, node.body = self.visit(node.args), self.visit(node.body)
        self._leave()
        return node

    def _comprehension(self, node: ast.AST) -> ast.AST:
        names = dict.fromkeys(name for part in node.generators for name in _targets(part.target))  # type: ignore[attr-defined]
        depth = len(self.scopes)
        self.scopes.append({name: f"#c{depth}.{i}" for i, name in enumerate(names)})
        self.generic_visit(node)
        self.scopes.pop()
        return node

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _comprehension

    def visit_arg(self, node: ast.arg) -> ast.arg:
        return ast.arg(arg=self._name(node.arg))

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.Name(id=self._name(node.id), ctx=node.ctx)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        on_self = self._is_self(node.value)
        value = self.visit(node.value)
        if on_self and node.attr in self.attributes:
            return ast.Attribute(value=value, attr=self.attributes[node.attr], ctx=node.ctx)
        if isinstance(value, ast.Name) and value.id.startswith("@"):
            return ast.Name(id=f"{value.id}.{node.attr}", ctx=node.ctx)  # torch.nn.X, nn.X and X are one
        return ast.Attribute(value=value, attr=node.attr, ctx=node.ctx)

    def visit_Call(self, node: ast.Call) -> ast.Call:
        function = node.func
        names: dict[str, str] = {}
        if isinstance(function, ast.Name):
            names = self.parameters.get(function.id, {})
        elif isinstance(function, ast.Attribute) and self._is_self(function.value):
            names = self.parameters.get(function.attr, {})
            self._rename_registered(function.attr, node)
        node.func = self.visit(function)
        node.args = [self.visit(argument) for argument in node.args]
        node.keywords = self._keywords(node.keywords, names)
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        if node.value is None:
            return None
        return ast.Assign(targets=[self.visit(node.target)], value=self.visit(node.value))

    def visit_Import(self, node: ast.AST) -> None:
        return None

    visit_ImportFrom = visit_Import

    def _is_self(self, node: ast.AST) -> bool:
        return isinstance(node, ast.Name) and node.id == self.receivers[-1]

    def _rename_registered(self, method: str, call: ast.Call) -> None:
        name = _registered(method, call)
        if name is not None:
            call.args[0] = ast.Constant(value=self.attributes.get(name, name))

    def _keywords(self, keywords: list[ast.keyword], names: dict[str, str]) -> list[ast.keyword]:
        renamed = [
            ast.keyword(arg=names.get(keyword.arg or "", keyword.arg), value=self.visit(keyword.value))
            for keyword in keywords
        ]
        return sorted(renamed, key=lambda keyword: (keyword.arg is None, keyword.arg or ""))

    def _block(self, body: list[ast.stmt], in_class: bool = False) -> list[ast.stmt]:
        visited = []
        for statement in body:
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                continue  # a docstring, or a bare constant
            if in_class and isinstance(statement, ast.FunctionDef):
                class_scope = self.scopes.pop()
                new: ast.AST | None = self._function(statement, method=True)
                self.scopes.append(class_scope)
            else:
                new = self.visit(statement)
            if isinstance(new, ast.stmt):
                visited.append(new)
        return visited

    def _enter(self, node: _Function, receiver: str | None) -> None:
        self.scopes.append(_local_names(node, len(self.scopes)))
        self.receivers.append(receiver)

    def _leave(self) -> None:
        self.scopes.pop()
        self.receivers.pop()

    def _name(self, name: str) -> str:
        for scope in reversed(self.scopes):
            if name in scope:
                return scope[name]
        return self.imported.get(name, name)


def _imports(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Each name that an import binds, with the full dotted path behind it, marked by '@'."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                path = alias.name if alias.asname else alias.name.split(".")[0]
                yield alias.asname or path, f"@{path}"
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield alias.asname or alias.name, f"@{'.' * node.level}{node.module or ''}.{alias.name}"


def _signatures(tree: ast.Module) -> Iterator[tuple[str, dict[str, str]]]:
    """The new names of the parameters of the file's functions, methods and (by __init__) classes."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, _numbered(_parameter_names(node))
        elif isinstance(node, ast.ClassDef):
            for part in node.body:
                if isinstance(part, ast.FunctionDef):
                    name = node.name if part.name == "__init__" else part.name
                    yield name, _numbered(_parameter_names(part))


def _parameter_names(node: _Function) -> list[str]:
    arguments = node.args
    listed = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    listed += [extra for extra in (arguments.vararg, arguments.kwarg) if extra]
    return [argument.arg for argument in listed]


def _local_names(node: _Function, depth: int) -> dict[str, str]:
    """A function's parameters and locals, numbered: parameters first, then in order of appearance."""
    body = [node.body] if isinstance(node, ast.Lambda) else node.body
    shared = {name for part in body for name in _declared(part)}
    bound = [name for part in body for name in _bound(part) if name not in shared]
    return _numbered(_parameter_names(node) + bound, depth)


def _numbered(names: list[str], depth: int = 1) -> dict[str, str]:
    """New names, told apart by the depth of their function (1: not within another one)."""
    return {name: f"#v{depth}.{i}" for i, name in enumerate(dict.fromkeys(names))}


def _bound(node: ast.AST) -> Iterator[str]:
    """The names that a statement binds in its own scope, in order of appearance."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
        return
    if isinstance(node, ast.Lambda):
        return
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store | ast.Del):
        yield node.id
    if isinstance(node, ast.ExceptHandler) and node.name:
        yield node.name
    if isinstance(node, _COMPREHENSIONS):
        return
    for child in ast.iter_child_nodes(node):
        yield from _bound(child)


def _declared(node: ast.AST) -> Iterator[str]:
    for part in ast.walk(node):
        if isinstance(part, ast.Global | ast.Nonlocal):
            yield from part.names


def _targets(target: ast.AST) -> Iterator[str]:
    return (part.id for part in ast.walk(target) if isinstance(part, ast.Name))


def _attributes(node: ast.ClassDef) -> list[str]:
    """The class's own attributes and methods that may be renamed, in order of first definition."""
    names: list[str] = []
    for part in node.body:
        names += _bound(part)
        if not isinstance(part, ast.FunctionDef) or not part.args.args:
            continue
        receiver = part.args.args[0].arg
        for inner in _in_order(part):
            if isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store):
                if isinstance(inner.value, ast.Name) and inner.value.id == receiver:
                    names.append(inner.attr)
            elif isinstance(inner, ast.Call) and isinstance(inner.func, ast.Attribute):
                name = _registered(inner.func.attr, inner)
                names += [name] if name is not None else []
    fixed = {name for name in names if name in _FIXED_METHODS or name.startswith("__")}
    return [name for name in dict.fromkeys(names) if name not in fixed]


def _registered(method: str, call: ast.Call) -> str | None:
    """The attribute's name in a call such as self.register_buffer("slopes", ...)."""
    if method in _REGISTERS and call.args and isinstance(call.args[0], ast.Constant):
        return str(call.args[0].value)
    return None


def _in_order(node: ast.AST) -> Iterator[ast.AST]:
    """Depth first, in the order of the text (ast.walk goes level by level)."""
    yield node
    for child in ast.iter_child_nodes(node):
        yield from _in_order(child)


def _text(value: object) -> str:
    """The tree as text, the same in every version of Python: empty fields are left out."""
    if isinstance(value, ast.Constant):
        return f"Constant({value.value!r})"
    if isinstance(value, ast.AST):
        fields = [
            f"{name}={_text(field)}"
            for name, field in ast.iter_fields(value)
            if field is not None and field != []
        ]
        return f"{type(value).__name__}({','.join(fields)})"
    if isinstance(value, list):
        return f"[{','.join(_text(item) for item in value)}]"
    return repr(value)
