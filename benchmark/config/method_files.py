"""What can be wrong with a method that a user writes: its YAML in `conf/method/` and its file in `methods/`."""

import dataclasses
import functools
import traceback
from collections.abc import Collection, Mapping
from typing import Any

import methods
from benchmark import networks
from benchmark.errors import UserError, nearest
from methods.contract import Method
from methods.options import dotted_names

TOLD = ("title", "year", "family")  # of a method in every table
ABOUT = (*TOLD, "paper", "authors", "venue", "arxiv", "uncertain")
FAMILIES = ("baseline", "logits", "features", "relations")
BESIDE = ("name", "implementation", "about", "pairs", "datasets", "tune")  # keys beside the options


def check(name: str, tree: Mapping[str, Any], datasets: Collection[str]) -> type[Method]:
    """The class that the YAML of the method `name` is for; `tree` is its content, composed with its defaults.

    Raises UserError, which names the file, where the class cannot be had, or the file says what has no meaning.
    """
    file = f"conf/method/{name}.yaml"
    if tree.get("name") != name:
        raise UserError(f"{file}: its name is {tree.get('name')!r}; it must be that of the file: name: {name}")
    kind = _implementation(file, tree.get("implementation"))
    _check_about(file, tree.get("about"))
    _check_options(file, tree, kind.Options, datasets)
    return kind


def told(e: Exception) -> str:
    """An exception of a user's own code, and where it was raised, in a line."""
    if isinstance(e, SyntaxError):
        return f"{type(e).__name__}: {e.msg} ({e.filename}:{e.lineno})"
    raised = traceback.extract_tb(e.__traceback__)[-1]
    return f"{type(e).__name__}: {' '.join(str(e).split())} ({raised.filename}:{raised.lineno})"


def _implementation(file: str, name: Any) -> type[Method]:
    if not isinstance(name, str):
        raise UserError(f"{file}: it names no implementation; add implementation: <a file of methods/, as kd>")
    parts = name.split("+")
    for part in parts:
        if part not in (known := methods.available()):
            raise UserError(f"{file}: implementation: {name}: there is no methods/{part}.py{nearest(part, known)}")
    if len(set(parts)) < len(parts):
        raise UserError(f"{file}: implementation: {name} names a method twice")
    try:
        kind = methods.load(name)
    except Exception as e:  # of a user's own file, which may raise anything while it is imported
        raise UserError(f"{file}: its implementation {name} is no method: {told(e)}") from e
    if not dataclasses.is_dataclass(getattr(kind, "Options", None)):
        raise UserError(f"methods/{name}.py: {kind.__name__}.Options must be a dataclass of its options")
    return kind


def _check_about(file: str, about: Any) -> None:
    if not isinstance(about, Mapping):
        raise UserError(f"{file}: about is missing; it needs {', '.join(TOLD)}")
    for key in about:
        if key not in ABOUT:
            raise UserError(f"{file}: about: unknown key {key!r}{nearest(str(key), ABOUT)}")
    for key in TOLD:
        if key not in about:
            raise UserError(f"{file}: about lacks {key}; it needs {', '.join(TOLD)}")
    if not isinstance(about["title"], str) or not isinstance(about["year"], int | None):
        raise UserError(f"{file}: about: title must be a text, and year a whole number or null")
    if about["family"] not in FAMILIES:
        raise UserError(f"{file}: unknown family {about['family']!r}{nearest(str(about['family']), FAMILIES)}")


def _check_options(file: str, tree: Mapping[str, Any], schema: type, datasets: Collection[str], part: str = "") -> None:
    """Raise UserError for what is missing, and for names that mean nothing. part: of a combination, as `crd.`"""
    known = [f.name for f in dataclasses.fields(schema)]
    for key in tree:
        if key not in (*known, *BESIDE):
            raise UserError(f"{file}: there is no option {part}{key}{nearest(key, known)}")
    for f in dataclasses.fields(schema):
        if dataclasses.is_dataclass(f.type):
            if not isinstance(tree.get(f.name), Mapping):
                raise UserError(f"{file}: the options of {f.name} are missing; add {f.name}@{f.name} to its defaults")
            _check_options(file, tree[f.name], f.type, datasets, f"{part}{f.name}.")
        elif f.name not in tree:
            raise UserError(f"{file}: the option {part}{f.name} is missing; add {f.name}: <its default>")
    if not isinstance(tree.get("tune", {}), Mapping):
        raise UserError(f"{file}: {part}tune needs {{<option>: <range>}}, not {tree['tune']!r}")
    for group, check_name in (("pairs", _check_pair), ("datasets", functools.partial(_check_dataset, datasets))):
        special = tree.get(group) or {}
        if not isinstance(special, Mapping):
            raise UserError(f"{file}: {part}{group} needs {{<name>: {{<option>: <value>}}}}, not {special!r}")
        for where, options in special.items():
            try:
                check_name(where)
            except UserError as e:
                raise UserError(f"{file}: {part}{group}: {e}") from e
            if not isinstance(options, Mapping):
                raise UserError(f"{file}: {part}{group}: {where} needs {{<option>: <value>}}, not {options!r}")
            for key in options:
                if key not in (names := dotted_names(schema)):
                    raise UserError(f"{file}: {part}{group}: {where} has no option {key!r}{nearest(key, names)}")


def _check_pair(name: str) -> None:
    if (right := "-".join(networks.split_pair(name))) != name:
        raise UserError(f"{name} would not be found; write {right}")


def _check_dataset(known: Collection[str], name: str) -> None:
    if name not in known:
        raise UserError(f"unknown data set {name!r}{nearest(name, known)}")
