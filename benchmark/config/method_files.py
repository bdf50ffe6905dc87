"""Check a method's YAML file in `conf/method/` and its Python file in `methods/`: what users write themselves."""

import dataclasses
import functools
import os
import traceback
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, cast

import methods
from benchmark import networks
from benchmark.errors import UserError, nearest
from methods.contract import Method
from methods.options import dotted_names, is_number, is_schema

REQUIRED_FIELDS = ("title", "year", "family")  # of `about`; every table shows them
ABOUT_FIELDS = (*REQUIRED_FIELDS, "paper", "authors", "venue", "arxiv", "uncertain")
FAMILIES = ("baseline", "logits", "features", "relations")
RECIPE_KEYS = ("batch_size", "lr")  # of a publication, for one data set or pair
RESERVED_KEYS = ("name", "implementation", "about", "pairs", "datasets", "tune")  # keys that are no options


def load_implementation(name: str, tree: Mapping[str, Any], datasets: Collection[str]) -> type[Method]:
    """Return the class that implements the method `name`, after checking its YAML and its Python file.

    tree: content of the YAML, composed with its defaults. datasets: the known data sets. Raises UserError, which names
    the file, where the class cannot be loaded, or the YAML has missing or unknown keys.
    """
    file = f"conf/method/{name}.yaml"
    if tree.get("name") != name:
        raise UserError(f"{file}: its name is {tree.get('name')!r}; it must be that of the file: name: {name}")
    method = _load_class(file, tree.get("implementation"))
    _check_about(file, tree.get("about"))
    _check_options(file, tree, method.Options, datasets)
    return method


def describe_exception(e: BaseException) -> str:
    """Return an exception raised by a user's own code, with file and line, as one line."""
    if isinstance(e, SyntaxError) and e.filename:
        return f"{type(e).__name__}: {e.msg} ({e.filename}:{e.lineno})"
    place = place_in_methods(e)
    if not place and (frames := traceback.extract_tb(e.__traceback__)):
        place = f"{frames[-1].filename}:{frames[-1].lineno}"
    return f"{type(e).__name__}: {' '.join(str(e).split())} ({place})"


def describe_failure(e: BaseException) -> str:
    """Return the exception that ended a run as one line, with file and line where it was raised in a method's file."""
    reason = " ".join((f"{type(e).__name__}: {e}".splitlines() or [""])[0].split())
    place = place_in_methods(e)
    return f"{reason} ({place})" if place else reason


def place_in_methods(e: BaseException) -> str:
    """Return `<file>:<line>` of the last call of a traceback in a method's file; empty where there is none.

    Calls in modules that methods share count only where no method's file is in the traceback.
    """
    folders = [os.path.abspath(path) for path in methods.__path__]
    frames = [
        f for f in traceback.extract_tb(e.__traceback__) if os.path.dirname(os.path.abspath(f.filename)) in folders
    ]
    of_a_method = [f for f in frames if Path(f.filename).stem not in methods.SHARED_MODULES]
    last = [*frames, *of_a_method][-1:]
    return f"{last[0].filename}:{last[0].lineno}" if last else ""


def _load_class(file: str, name: Any) -> type[Method]:
    if not isinstance(name, str):
        raise UserError(f"{file}: it names no implementation; add implementation: <a file of methods/, such as kd>")
    parts = name.split("+")
    for part in parts:
        if part not in (available := methods.available()):
            raise UserError(f"{file}: implementation: {name}: there is no methods/{part}.py{nearest(part, available)}")
    if len(set(parts)) < len(parts):
        raise UserError(f"{file}: implementation: {name} names a method twice")
    try:
        method = methods.load(name)
    except (Exception, SystemExit) as e:  # a user's own file may raise anything while it is imported
        raise UserError(f"{file}: its implementation {name} is no method: {describe_exception(e)}") from e
    if not is_schema(getattr(method, "Options", None)):
        raise UserError(f"methods/{name}.py: {method.__name__}.Options must be a dataclass of its options")
    return method


def _check_about(file: str, about: Any) -> None:
    if not isinstance(about, Mapping):
        raise UserError(f"{file}: about is missing; it needs {', '.join(REQUIRED_FIELDS)}")
    for key in about:
        if key not in ABOUT_FIELDS:
            raise UserError(f"{file}: about: unknown key {key!r}{nearest(str(key), ABOUT_FIELDS)}")
    for key in REQUIRED_FIELDS:
        if key not in about:
            raise UserError(f"{file}: about lacks {key}; it needs {', '.join(REQUIRED_FIELDS)}")
    if not isinstance(about["title"], str) or not isinstance(about["year"], int | None):
        raise UserError(f"{file}: about: title must be a text, and year a whole number or null")
    if about["family"] not in FAMILIES:
        raise UserError(f"{file}: unknown family {about['family']!r}{nearest(str(about['family']), FAMILIES)}")


def _check_options(file: str, tree: Mapping[str, Any], schema: type, datasets: Collection[str], part: str = "") -> None:
    """Raise UserError for missing and unknown options. part: of a combination, such as `crd.`"""
    option_names = [f.name for f in dataclasses.fields(schema)]
    for key in tree:
        if key not in (*option_names, *RESERVED_KEYS):
            raise UserError(f"{file}: there is no option {part}{key}{nearest(key, option_names)}")
    for f in dataclasses.fields(schema):
        if is_schema(f.type):
            if not isinstance(tree.get(f.name), Mapping):
                raise UserError(f"{file}: the options of {f.name} are missing; add {f.name}@{f.name} to its defaults")
            _check_options(file, tree[f.name], cast(type, f.type), datasets, f"{part}{f.name}.")
        elif f.name not in tree:
            raise UserError(f"{file}: the option {part}{f.name} is missing; add {f.name}: <its default>")
    if not isinstance(tree.get("tune") or {}, Mapping):
        raise UserError(f"{file}: {part}tune needs {{<option>: <range>}}, not {tree['tune']!r}")
    _check_pair_and_dataset_values(file, tree, schema, datasets, part)


def _check_pair_and_dataset_values(
    file: str, tree: Mapping[str, Any], schema: type, datasets: Collection[str], part: str
) -> None:
    """Raise UserError for unknown pairs, data sets and options among the values of single pairs and data sets.

    Those of a data set may hold `pairs` of their own, and both `recipe`, the batch size and rate of the publication.
    """
    of_datasets = functools.partial(_check_dataset, datasets)
    _check_groups(file, tree, schema, {"pairs": _check_pair, "datasets": of_datasets}, part)
    for name, values in (tree.get("datasets") or {}).items():
        _check_groups(file, values, schema, {"pairs": _check_pair}, f"{part}datasets: {name}: ")


def _check_groups(
    file: str, tree: Mapping[str, Any], schema: type, groups: Mapping[str, Callable[[Any], None]], part: str
) -> None:
    """Check the values of single pairs or data sets. groups: the check of a name, by key."""
    for group, check_name in groups.items():
        values = tree.get(group) or {}
        if not isinstance(values, Mapping):
            raise UserError(f"{file}: {part}{group} needs {{<name>: {{<option>: <value>}}}}, not {values!r}")
        for name, options in values.items():
            try:
                check_name(name)
            except UserError as e:
                raise UserError(f"{file}: {part}{group}: {e}") from e
            if not isinstance(options, Mapping):
                raise UserError(f"{file}: {part}{group}: {name} needs {{<option>: <value>}}, not {options!r}")
            for key in options:
                if key == "recipe":
                    _check_recipe(f"{file}: {part}{group}: {name}", options[key])
                elif key not in (names := dotted_names(schema)) and not (group == "datasets" and key == "pairs"):
                    raise UserError(f"{file}: {part}{group}: {name} has no option {key!r}{nearest(key, names)}")


def _check_recipe(place: str, recipe: Any) -> None:
    """Raise UserError where the recipe of a publication is not batch size and rate, or one of them."""
    if not isinstance(recipe, Mapping) or not recipe or set(recipe) - set(RECIPE_KEYS):
        raise UserError(f"{place}: recipe needs {{{', '.join(f'{key}: <number>' for key in RECIPE_KEYS)}}}")
    if not all(is_number(value) and value > 0 for value in recipe.values()):
        raise UserError(f"{place}: recipe has {dict(recipe)}: its values are numbers above 0")


def _check_pair(name: Any) -> None:
    if not isinstance(name, str):
        raise UserError(f"{name!r} is not the name of a pair; write <teacher>-<student>, as resnet56-resnet20")
    if (canonical := "-".join(networks.split_pair(name))) != name:
        raise UserError(f"{name} is not the name of a pair; write {canonical}")


def _check_dataset(datasets: Collection[str], name: str) -> None:
    if name not in datasets:
        raise UserError(f"unknown data set {name!r}{nearest(name, datasets)}")
