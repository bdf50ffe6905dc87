"""Distillation methods. One file each; a method is found by the name of its file, so nothing lists them.

`methods.load("kd")` gives the `Method` subclass that `methods/kd.py` defines.
"""

import ast
import dataclasses
import functools
import hashlib
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from methods.combination import combined
from methods.contract import Method

BASES = ("contract", "combination")  # modules that are no methods


def available() -> list[str]:
    """Names of all implementations: the modules of this package but the bases, sorted."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name not in BASES)


def load(name: str) -> type[Method]:
    """The `Method` subclass defined in `methods/<name>.py`, or of a name like crd+kd the sum of two.

    Raises KeyError for an unknown name.
    """
    if "+" in name:
        return combined({n: load(n) for n in name.split("+")})
    if name not in available():
        raise KeyError(name)
    module = importlib.import_module(f"methods.{name}")
    found = [
        v
        for v in vars(module).values()
        if isinstance(v, type) and issubclass(v, Method) and v.__module__ == module.__name__
    ]
    found = [c for c in found if c not in [other.published for other in found]]
    if len(found) != 1:
        raise TypeError(f"methods/{name}.py must define exactly one Method, not {len(found)}")
    _statements(module)  # as they are now
    return found[0]


def code(name: str) -> str:
    """Twelve hex digits that tell the code of an implementation from another version of it, comments aside.

    Of its own file, or those of its parts; not of what they import.
    """
    sources = [_statements(sys.modules[load(n).__module__]) for n in name.split("+")]
    return hashlib.sha256("".join(sources).encode()).hexdigest()[:12]


@functools.cache
def _statements(module: ModuleType) -> str:
    """A module's code without comments, as it was when this was first asked: a file that is changed later changes
    nothing of what runs."""
    return ast.unparse(ast.parse(inspect.getsource(module)))


def options(schema: type, values: Mapping[str, Any]) -> Any:
    """An instance of a method's `Options` from plain values, those of the parts of a combination included."""
    return schema(
        **{
            f.name: options(f.type, values[f.name]) if dataclasses.is_dataclass(f.type) else values[f.name]
            for f in dataclasses.fields(schema)
        }
    )
