"""The options of a command that are in a file of their own, `conf/<command>.yaml`. No torch here."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from benchmark.config import checks, files, overrides
from benchmark.config.schema import (
    AnalysisOptions,
    DatasetConfig,
    ExportOptions,
    ScaleOptions,
    SimulateOptions,
    StudentFilters,
    SyncOptions,
    TransferOptions,
)
from benchmark.errors import UserError, nearest
from methods.options import dotted_names

Schema = TypeVar("Schema")
TARGET = "target."  # prefix of the keys of the data sets that `transfer` probes on
PROBE_KEYS = ("size", "padding", "flip")  # keys of a data set that are the probe's


def load_options(command: str, schema: type[Schema], words: Sequence[str]) -> tuple[Schema, list[str]]:
    """Return the options of `conf/<command>.yaml` with the words that set them, and the other words.

    Raises UserError for a value of another type or outside its limits.
    """
    files.check_kinds()
    values, others = overrides.split_by_schema(words, schema)
    return checks.build(schema, _load_tree(files.CONF / f"{command}.yaml", values)), others


def _load_tree(path: Path, values: Mapping[str, Any]) -> DictConfig:
    """Return the mapping in a YAML file with other values on top. Raises UserError where it cannot be read."""
    try:
        tree = OmegaConf.merge(OmegaConf.load(path), OmegaConf.create(dict(values)))
    except (OmegaConfBaseException, yaml.YAMLError, OSError) as e:
        raise UserError(f"{path} cannot be read: {checks.one_line(e)}") from e
    if not isinstance(tree, DictConfig):
        raise UserError(f"{path} is no mapping of options")
    return tree


def _pass_all(options: object, keys: Iterable[str]) -> None:
    """Make those filters pass everything that have `all` among their names."""
    for key in keys:
        if isinstance(names := getattr(options, key), list) and "all" in names:
            setattr(options, key, [])


def load_analysis(words: Sequence[str], keys: Sequence[str] | None = None) -> AnalysisOptions:
    """Return the options of an analysis command; a filter with `all` among its names passes everything.

    keys: the keys that the command takes; None: all of conf/analysis.yaml. Raises UserError for an unknown key.
    """
    options = _load_all("analysis", AnalysisOptions, words, keys)
    for key in ("runs", "reports"):
        setattr(options, key, str(Path(getattr(options, key)).expanduser()))
    _pass_all(options, [key for key in vars(options) if key != "highlight"])
    return options


def load_scale(words: Sequence[str]) -> ScaleOptions:
    """Return the options of `scale`. Raises UserError for an unknown key."""
    return _load_all("scale", ScaleOptions, words)


def load_simulate(words: Sequence[str]) -> SimulateOptions:
    """Return the options of `simulate`. Raises UserError for an unknown key."""
    return _load_all("simulate", SimulateOptions, words)


def load_sync(words: Sequence[str]) -> SyncOptions:
    """Return the options of `sync`. Raises UserError for an unknown key."""
    return _load_all("sync", SyncOptions, words)


def load_export(words: Sequence[str]) -> ExportOptions:
    """Return the options of `export`; a filter with `all` among its names passes everything.

    Raises UserError for an unknown key.
    """
    options = _load_all("export", ExportOptions, words)
    _pass_all(options, list(vars(options)))
    return options


def load_transfer(words: Sequence[str]) -> tuple[TransferOptions, list[DatasetConfig]]:
    """Return the options of `transfer` and its targets; a filter with `all` among its names passes everything.

    `from=` is another name of `runs=`, and `target.<key>=` sets a key of every target. Raises UserError for an unknown
    key or target, and where there is no target.
    """
    words = [f"runs={word.partition('=')[2]}" if overrides.key_of(word) == "from" else word for word in words]
    of_targets = [word for word in words if word.startswith(TARGET)]
    others = [word for word in words if word not in of_targets]
    options = _load_all("transfer", TransferOptions, others, [*dotted_names(TransferOptions), "from", "target.<key>"])
    for key in ("runs", "data", "reports"):
        setattr(options, key, str(Path(getattr(options, key)).expanduser()))
    _pass_all(options, dotted_names(StudentFilters))
    for key in PROBE_KEYS:
        if TARGET + key in map(overrides.key_of, of_targets):
            raise UserError(
                f"{TARGET}{key} is not a key of its own here: give {key}=…, which all targets have in common"
            )
    if not options.to:
        raise UserError("to is empty: name the data sets to transfer to, as in to=stl10,tinyimagenet")
    return options, [load_dataset(name, of_targets) for name in dict.fromkeys(options.to)]


def load_dataset(name: str, words: Sequence[str]) -> DatasetConfig:
    """Return the options of `conf/dataset/<name>.yaml` with the words `target.<key>=value` that change them.

    Raises UserError for an unknown data set or key.
    """
    if name not in (names := files.group_names("dataset")):
        raise UserError(f"unknown target {name!r}{nearest(name, names)}")
    keys, tree = dotted_names(DatasetConfig), _load_tree(files.CONF / "dataset" / f"{name}.yaml", {})
    for word in words:
        key = overrides.key_of(word).removeprefix(TARGET)
        if key not in keys:
            raise UserError(f"unknown key {TARGET + key!r}{nearest(TARGET + key, [TARGET + k for k in keys])}")
        override = overrides.parse(f"dataset.{word.removeprefix(TARGET)}")
        OmegaConf.update(tree, key, override.value)
    config = checks.build(DatasetConfig, tree, TARGET)
    checks.check_dataset_name(config)
    return config


def _load_all(command: str, schema: type[Schema], words: Sequence[str], keys: Sequence[str] | None = None) -> Schema:
    """Return the options of a command that takes no words but those about its options."""
    allowed = keys or dotted_names(schema)
    for key in map(overrides.key_of, words):
        if key not in allowed:
            raise UserError(f"unknown key {key!r}{nearest(key, allowed)}")
    return load_options(command, schema, words)[0]
