"""Distillation methods. One file each; a method is found by the name of its file, so nothing lists them.

`methods.load("kd")` gives the `Method` subclass that `methods/kd.py` defines.
"""

import importlib
import pkgutil

from methods.contract import Method


def available() -> list[str]:
    """Names of all implementations: the modules of this package but the contract, sorted."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name != "contract")


def load(name: str) -> type[Method]:
    """The `Method` subclass defined in `methods/<name>.py`. Raises KeyError for an unknown name."""
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
    return found[0]
