"""Distillation methods, one file each; a method is loaded by the name of its file.

`methods.load("kd")` returns the `Method` subclass that `methods/kd.py` defines.
"""

import ast
import functools
import hashlib
import importlib
import inspect
import pkgutil
import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # importing the option model must not import torch
    from methods.contract import Method

SHARED_MODULES = ("combination", "contract", "contrast", "losses", "options")  # modules that define no method


def available() -> list[str]:
    """Return the names of all implementations, sorted."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name not in SHARED_MODULES)


def load(name: str) -> "type[Method]":
    """Return the `Method` subclass of `methods/<name>.py`, or the sum of several for a name such as crd+kd.

    Raises KeyError for an unknown name, TypeError for a file that does not define exactly one method.
    """
    from methods.combination import combine
    from methods.contract import Method

    if "+" in name:
        return combine({part: load(part) for part in name.split("+")})
    modules_before = () if f"methods.{name}" in sys.modules else set(sys.modules)
    if name in SHARED_MODULES or (modules_before and name not in available()):
        raise KeyError(name)
    module = importlib.import_module(f"methods.{name}")
    defined = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__
    ]
    if len(defined) != 1:
        raise TypeError(f"methods/{name}.py must define exactly one Method, not {len(defined)}")
    if modules_before:
        _remember_sources({module.__name__, *(set(sys.modules) - modules_before)})
    return defined[0]


def code_version(name: str) -> str:
    """Return twelve hex digits that identify the code of an implementation, without its prose.

    The hash covers the file of the method, or those of its parts and of their combination, and every module of this
    package that these import. Comments, docstrings and `PROVENANCE` do not count.
    """
    parts = name.split("+")
    modules: dict[str, ModuleType] = {}
    for part in [*parts, "combination"] if len(parts) > 1 else parts:
        if part not in SHARED_MODULES:
            load(part)
        modules |= {m.__name__: m for m in _imported_modules(importlib.import_module(f"methods.{part}"))}
    sources = [_statements(modules[key]) for key in sorted(modules)]
    return hashlib.sha256("".join(sources).encode()).hexdigest()[:12]


def _imported_modules(module: ModuleType) -> list[ModuleType]:
    """Return a module and all modules of this package that it imports, directly or not."""
    pending, reached = [module], {module.__name__: module}
    while pending:
        for imported in _direct_imports(pending.pop()):
            if imported.__name__ not in reached:
                reached[imported.__name__] = imported
                pending.append(imported)
    return list(reached.values())


def _direct_imports(module: ModuleType) -> list[ModuleType]:
    return [importlib.import_module(name) for name in _imported_names(module)]


@functools.cache
def _imported_names(module: ModuleType) -> list[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(_source(module))):
        if isinstance(node, ast.ImportFrom) and node.module == "methods":
            names |= {f"methods.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("methods."):
            names.add(node.module or "")
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names if alias.name.startswith("methods.")}
    return sorted(names)


@functools.cache
def _statements(module: ModuleType) -> str:
    """Return a module's code without prose."""
    return code_without_prose(_source(module))


def _remember_sources(modules: set[str]) -> None:
    """Read the source of imported modules of this package: their files may be edited while runs go on."""
    for module in modules | {f"methods.{name}" for name in SHARED_MODULES}:
        if module.startswith("methods.") and module in sys.modules:
            _source(sys.modules[module])


@functools.cache
def _source(module: ModuleType) -> str:
    """Return a module's source as it was at the first call: later edits of the file do not count."""
    return inspect.getsource(module)


def code_without_prose(source: str) -> str:
    """Return Python source without comments, docstrings and the text of `PROVENANCE`, in a normal form that is the same
    in every version of Python: a checkpoint may go on under another one."""
    return _normal_form(_Prose().visit(ast.parse(source)))


def _normal_form(node: object) -> str:
    """Return a syntax tree as text, without empty fields, such as later versions of Python add."""
    if isinstance(node, ast.AST):
        fields = [f"{name}={_normal_form(value)}" for name, value in ast.iter_fields(node) if value not in (None, [])]
        return f"{type(node).__name__}({', '.join(fields)})"
    if isinstance(node, list):
        return f"[{', '.join(map(_normal_form, node))}]"
    return repr(node)


class _Prose(ast.NodeTransformer):
    """Removes docstrings, the text of `PROVENANCE`, and the empty ends of f-strings that Python 3.12 adds."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        node.values = [v for v in node.values if not (isinstance(v, ast.Constant) and v.value == "")]
        return self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return ast.Pass() if is_text else node

    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:
        target = node.targets[0]
        return None if isinstance(target, ast.Name) and target.id == "PROVENANCE" else node
