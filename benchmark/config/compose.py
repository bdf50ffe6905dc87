"""Compose `conf/` and the command line's overrides into typed, checked, resolved configs, by Hydra.

Every mistake of a user ends in a `UserError` of one line with the nearest valid names.
"""

import copy
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf, flag_override
from omegaconf.errors import OmegaConfBaseException

from benchmark import networks
from benchmark.config import checks, files, method_files, method_parts, overrides, own_networks, pairs
from benchmark.config.overrides import LISTS, Override
from benchmark.config.references import missing_references
from benchmark.config.schema import Config, MethodConfig
from benchmark.errors import UserError, nearest
from methods.options import dotted_names, is_schema, restrict

FULL_EPOCHS = 240  # length of the field's CIFAR recipe; `${scaled:n}` scales n of its epochs to `recipe.epochs`


def load_config(words: Sequence[str], command_keys: Sequence[str] = (), *, references: bool = False) -> Config:
    """Return the config of a training command. Options of methods are checked in `load_method`.

    command_keys: further keys of the command, to be suggested for a misspelled one. references: the command adds the
    missing references, so that their options may be set. Raises UserError.
    """
    for word in words:
        if overrides.key_of(word) == "method":
            raise UserError(f"{word} is not understood: the methods are chosen by methods=kd,clkd")
    files.check_kinds()
    command_networks, words = own_networks.split_words(words)
    parsed = overrides.parse_all(words)
    config = checks.build(Config, _compose([o for o in parsed if overrides.is_shared(o.key)], command_keys))
    checks.check_dataset_name(config.dataset)
    checks.check_teacher(config.teacher)
    checks.check_recipe(config.recipe, config.dataset)
    checks.check_executor(config)
    config.network = own_networks.merge(config.network, command_networks)
    own_networks.register(config.network)
    config.pair = _expand_pairs(config.pair)
    config.methods = _expand_methods(config.methods)
    for key, values in (("pair", config.pair), ("methods", config.methods), ("seeds", config.seeds)):
        if not values:
            raise UserError(f"{key} is empty: give at least one, as in {key}={LISTS[key]}")
        if len(set(values)) < len(values):
            raise UserError(f"{key} names something twice: {', '.join(map(str, values))}")
    _check_owners(words, [*config.methods, *(missing_references(config) if references else [])])
    for key in ("runs", "reports", "data"):
        setattr(config, key, str(Path(getattr(config, key)).expanduser()))
    if (cache_dir := config.dataset.cache_dir) is not None and "$" not in cache_dir:  # variables are the machine's
        config.dataset.cache_dir = str(Path(cache_dir).expanduser().absolute())  # runs may start in another folder
    for key in ("runs", "reports"):
        checks.check_folder(key, Path(getattr(config, key)))
    checks.check_writable("reports", Path(config.reports))
    return config


def load_method(name: str, pair: str, words: Sequence[str]) -> MethodConfig:
    """Return a method's options on a pair; for several methods or pairs use one `MethodComposer`."""
    return MethodComposer(words).method(name, pair)


def change_options(method: MethodConfig, options: Mapping[str, Any]) -> MethodConfig:
    """Return a method with some options changed, by dotted name; the values are checked as overrides are."""
    tree = OmegaConf.create(dataclasses.asdict(method.options))
    for name, value in options.items():
        OmegaConf.update(tree, name, value)
    return dataclasses.replace(method, options=checks.build(type(method.options), tree, f"{method.name}."))


@dataclass(frozen=True)
class ComposedMethod:
    """A method's YAML file, composed. tree: its plain content, interpolations unresolved."""

    tree: dict[str, Any]
    schema: type  # the implementation's Options

    @functools.cached_property
    def common(self) -> dict[str, Any]:
        """The tree without the values of single pairs and data sets, which are most of it."""
        return _without_special_values(self.tree)


class MethodComposer:
    """Methods' options under the overrides of one command.

    Hydra composes the shared config once, and each method's own files are composed once. A method whose values refer to
    the shared config is put into it, one at a time.
    """

    def __init__(self, words: Sequence[str]) -> None:
        parsed = overrides.parse_all(own_networks.split_words(words)[1])
        self._shared = [o for o in parsed if overrides.is_shared(o.key)]
        self._method_overrides = [o for o in parsed if not overrides.is_shared(o.key)]
        self._composed: dict[str, ComposedMethod] = {}
        self._resolved: dict[tuple[str, str], MethodConfig] = {}

    def method(self, name: str, pair: str) -> MethodConfig:
        """Return a method's options on a pair: its YAML, the values there for data set and pair, then the overrides.

        pair: as `networks.split_pair` writes it; an empty one has no values. Raises UserError.
        """
        composed = self._compose(name)
        special = _special_values(composed.tree, composed.schema, self._root.dataset.source, pair)
        recipe = self._published_recipe(composed.tree, pair)
        key = (name, repr((special, recipe)))
        if key not in self._resolved:
            changes = self._overrides(name, composed)
            tree, defaults = self._resolve(name, special)
            options = self._resolve(name, {**special, **changes})[1] if changes else defaults
            about = dict.fromkeys(method_files.ABOUT_FIELDS) | tree["about"]
            tune = _search_space(tree, composed.schema)
            self._resolved[key] = MethodConfig(name, tree["implementation"], about, options, tune, defaults, recipe)
        return self._resolved[key]

    def _published_recipe(self, tree: Mapping[str, Any], pair: str) -> dict[str, Any]:
        """Return the recipe keys that a method was published with on the data set, without those of the command."""
        published = _direct_values(tree, self._root.dataset.source, pair).get("recipe", {})
        command_keys = [o.key for o in self._shared]
        return {key: value for key, value in published.items() if f"recipe.{key}" not in command_keys}

    def without_options(self) -> "MethodComposer":
        """Return the composer of the same shared config without the overrides of methods' options."""
        composer = copy.copy(self)
        composer._method_overrides, composer._resolved = [], {}
        return composer

    @functools.cached_property
    def _root(self) -> DictConfig:
        """The shared config, with the part of the method that was resolved last."""
        return _compose(self._shared)

    def _compose(self, name: str) -> ComposedMethod:
        if name not in self._composed:
            if name not in (names := files.group_names("method")):
                raise UserError(f"unknown method {name!r}{nearest(name, names)}")
            part = method_parts.compose_part(name) or _compose([], config=f"method/{name}").method
            try:
                tree = cast(dict[str, Any], OmegaConf.to_container(part))
            except OmegaConfBaseException as e:
                raise UserError(f"conf/method/{name}.yaml: {checks.one_line(e)}") from e
            schema = method_files.load_implementation(name, tree, files.group_names("dataset")).Options
            self._composed[name] = ComposedMethod(tree, schema)
        return self._composed[name]

    def _resolve(self, name: str, values: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
        """Return a method's plain tree and its typed options, with some values set by dotted name."""
        schema, tree = self._composed[name].schema, copy.deepcopy(self._composed[name].common)
        for option, value in values.items():
            *parts, key = option.split(".")
            functools.reduce(dict.__getitem__, parts, tree)[key] = value
        try:
            if "${" in repr(tree):  # putting the method into the shared config takes longer than the rest
                tree = cast(dict[str, Any], OmegaConf.to_container(self._root_with(tree).method, resolve=True))
        except OmegaConfBaseException as e:
            raise UserError(f"conf/method/{name}.yaml: {checks.one_line(e)}") from e
        return tree, checks.build(schema, OmegaConf.create(restrict(schema, tree)), f"{name}.")

    def _root_with(self, tree: Mapping[str, Any]) -> DictConfig:
        """Return the shared config with a method's part, which composing all of it again would give too."""
        with flag_override(self._root, ["struct", "readonly"], False):
            self._root.method = tree
        return self._root

    def _overrides(self, name: str, composed: ComposedMethod) -> dict[str, Any]:
        """Return the overrides of a method's options by dotted name. Raises UserError for an unknown option."""
        names = dotted_names(composed.schema)
        changes = {}
        for override in self._method_overrides:
            owner, _, option = override.key.partition(".")
            if owner in (name, "method"):
                if option not in names:
                    raise UserError(f"{name} has no option {option!r}{nearest(option, names)}")
                changes.pop(option, None)  # the last word of an option counts
                changes[option] = override.value
        return changes


def _special_values(tree: Any, schema: type, dataset: str, pair: str, prefix: str = "") -> dict[str, Any]:
    values: dict[str, Any] = {}
    for f in dataclasses.fields(schema):
        if is_schema(f.type):
            values |= _special_values(tree[f.name], cast(type, f.type), dataset, pair, f"{prefix}{f.name}.")
    direct = _direct_values(tree, dataset, pair)
    return values | {prefix + key: value for key, value in direct.items() if key != "recipe"}


def _direct_values(tree: Mapping[str, Any], dataset: str, pair: str) -> dict[str, Any]:
    """Return what a method's YAML holds for a data set, a pair, and the pair on that data set; the last one counts."""
    of_dataset = dict((tree.get("datasets") or {}).get(dataset, {}))
    of_pair_there = (of_dataset.pop("pairs", None) or {}).get(networks.imagenet_pair(pair), {})
    return {**of_dataset, **(tree.get("pairs") or {}).get(pair, {}), **of_pair_there}


def _without_special_values(tree: Mapping[str, Any]) -> dict[str, Any]:
    values = {key: value for key, value in tree.items() if key not in ("datasets", "pairs")}
    return {key: _without_special_values(v) if isinstance(v, Mapping) else v for key, v in values.items()}


def _search_space(tree: Mapping[str, Any], schema: type, prefix: str = "") -> dict[str, Any]:
    """Return what a method's YAML says of its search space, by dotted name; first that of the parts."""
    space: dict[str, Any] = {}
    for f in dataclasses.fields(schema):
        if is_schema(f.type):
            space |= _search_space(tree[f.name], cast(type, f.type), f"{prefix}{f.name}.")
    return space | {prefix + key: value for key, value in (tree.get("tune") or {}).items()}


def _expand_pairs(names: Sequence[str]) -> list[str]:
    """Replace the names of lists of pairs by their pairs."""
    lists = pairs.lists()
    for name in names:
        if "-" not in name and name not in lists:
            raise UserError(f"{name!r} is no <teacher>-<student>, as wrn40_2-wrn16_2, nor a list{nearest(name, lists)}")
    return [pair for name in names for pair in lists.get(name, [name])]


def _expand_methods(names: Sequence[str]) -> list[str]:
    method_names = files.group_names("method")
    for name in names:
        if name not in (*method_names, "all"):
            raise UserError(f"unknown method {name!r}{nearest(name, method_names)}")
    return method_names if "all" in names else list(names)


def _check_owners(words: Sequence[str], methods: Sequence[str]) -> None:
    for word in words:
        if (name := overrides.method_of(word)) is not None and name not in methods:
            raise UserError(f"an option of {name} is given, but {name} is not among the methods {','.join(methods)}")


def _scaled(epochs: float, *, _root_: DictConfig) -> float:
    return float(epochs) * _root_.recipe.epochs / FULL_EPOCHS


def _compose(words: Sequence[Override], command_keys: Sequence[str] = (), config: str = "config") -> DictConfig:
    """Return Hydra's composition of a file of `conf/`; its errors become a UserError of one line."""
    ConfigStore.instance().store("schema", Config)
    OmegaConf.register_new_resolver("scaled", _scaled, replace=True)
    try:
        with initialize_config_dir(str(files.CONF), version_base="1.3"):
            return compose(config, [o.text for o in words])
    except HydraException as e:
        raise UserError(_explain(e, words, command_keys)) from e
    except (OmegaConfBaseException, OverflowError) as e:
        raise UserError(checks.one_line(e)) from e
    except yaml.YAMLError as e:
        raise UserError(f"a file of conf/ is no YAML: {checks.one_line(e)}") from e
    except RecursionError as e:
        raise UserError(f"conf/{config}.yaml, or a file in its defaults, refers to itself") from e
    except (ValueError, TypeError, LookupError, AttributeError, AssertionError) as e:  # of Hydra, on unexpected content
        raise UserError(f"conf/{config}.yaml cannot be composed: {type(e).__name__}: {checks.one_line(e)}") from e


def _explain(e: HydraException, words: Sequence[Override], command_keys: Sequence[str]) -> str:
    """Describe Hydra's error in one line, with the nearest keys where a key is unknown."""
    if isinstance(e, MissingConfigException):
        return checks.one_line(e)
    config_keys = {*_keys(Config), *command_keys}
    for key in (o.key for o in words):
        if key not in config_keys and not key.startswith("method.") and not (files.CONF / key).is_dir():
            return f"unknown key {key!r}{nearest(key, config_keys)}"
    return checks.one_line(e.__cause__ or e)


def _keys(schema: type, prefix: str = "") -> list[str]:
    """Return the dotted keys of a schema, those of its groups included."""
    keys = []
    for f in dataclasses.fields(schema):
        keys.append(prefix + f.name)
        if is_schema(f.type):
            keys += _keys(cast(type, f.type), f"{prefix}{f.name}.")
    return keys
