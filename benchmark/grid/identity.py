"""The parts of a run's identity that follow from a command's config, and the settings that differ from its profile."""

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark import networks
from benchmark.config.compose import load_config
from benchmark.config.schema import Config, DatasetConfig, MethodConfig
from benchmark.data import resized_copy
from benchmark.data.datasets import Dataset
from benchmark.runs.folder import RunFolder
from benchmark.runs.record import TEACHERS

TRAINING_SPLIT = "training_split"  # key of a teacher's config
BATCH_NORM = "batch_norm"  # key of a run's config where the processes that train it have statistics of their own


@functools.cache
def _profile_config(profile: str, dataset: str) -> Config:
    """The config of a profile without other overrides."""
    return load_config([f"profile={profile}", f"dataset={dataset}"])


def changed_settings(method: MethodConfig, config: Config, network: str) -> tuple[str, ...]:
    """Return the dotted names of the settings that differ from the method's defaults and from the profile.

    They are options of the method, of the recipe and of the data set. Its name and paths do not count, nor do
    milestones that differ because the number of epochs does.
    """
    default = _profile_config(config.profile, config.dataset.source)
    ignored = ["name", *(f.name for f in dataclasses.fields(config.dataset) if f.metadata.get("location"))]
    ignored += ["milestones"] if config.recipe.epochs != default.recipe.epochs else []
    parts = {
        "recipe": (network_recipe(config, network), network_recipe(default, network)),
        "dataset": (vars(config.dataset), vars(default.dataset)),
    }
    changed = [f"method.{name}" for name in method.changed]
    for part, (values, defaults) in parts.items():
        keys = dict.fromkeys((*values, *defaults))
        changed += [f"{part}.{k}" for k in keys if values.get(k) != defaults.get(k) and k not in ignored]
    if config.dataset.cache_dir is not None:
        changed.append("dataset.resized_copy")
    changed += [f"{BATCH_NORM}.statistics"] if config.batch_norm_statistics != default.batch_norm_statistics else []
    return tuple(changed)


def changed_teacher_settings(config: Config) -> tuple[str, ...]:
    """Return the dotted names of the settings of the teacher's training that differ from the profile's."""
    default = _profile_config(config.profile, config.dataset.source)
    return ("teacher.train_size",) if config.teacher.train_size != default.teacher.train_size else ()


def dataset_identity(dataset: Dataset) -> dict[str, Any]:
    """Return what of a data set belongs to a run's identity: its options and its content, not its location."""
    return {**_dataset_options(dataset.config), "fingerprint": dataset.fingerprint}


def training_split(dataset: Dataset) -> dict[str, Any]:
    """Return the part of a teacher's identity about training images that its students do not have; empty where there
    are none."""
    teacher = dataset.teacher
    if teacher is None:
        return {}
    return {TRAINING_SPLIT: {"size": len(teacher.train.labels), "fingerprint": teacher.fingerprint}}


@dataclass(frozen=True)
class EarlierDataset:
    """A data set as earlier runs recorded it. config: with mean and std resolved. teacher_fingerprints: of the data
    set with further training images for the teacher, by their number."""

    config: DatasetConfig
    fingerprint: str
    teacher_fingerprints: dict[int, str] = field(default_factory=dict)


def dataset_of_earlier_run(config: DatasetConfig, runs: Path) -> EarlierDataset | None:
    """Return a data set as a teacher below `runs` was trained on it; None where none was. Its images are not read."""
    earlier = None
    options = {key: value for key, value in _dataset_options(config).items() if value is not None}
    for path in sorted((runs / config.name / TEACHERS).glob("*/*/*/config.yaml")):
        tree = RunFolder(path.parent).config.tree
        recorded, split = tree.get("dataset"), tree.get(TRAINING_SPLIT)
        if not isinstance(recorded, Mapping) or not isinstance(recorded.get("fingerprint"), str):
            continue
        same = all(recorded.get(key) == value for key, value in options.items())
        unset = [key for key in _dataset_options(config) if key not in options and key not in ("mean", "std")]
        unset += [f.name for f in dataclasses.fields(config) if f.name not in _dataset_options(config)]
        if same and all(recorded.get(key) is None for key in unset) and recorded["fingerprint"]:
            if earlier is None:
                resolved = dataclasses.replace(config, mean=recorded.get("mean"), std=recorded.get("std"))
                earlier = EarlierDataset(resolved, recorded["fingerprint"])
            if isinstance(split, Mapping) and recorded["fingerprint"] == earlier.fingerprint:
                earlier.teacher_fingerprints[split["size"]] = split["fingerprint"]
    return earlier


def _dataset_options(config: DatasetConfig) -> dict[str, Any]:
    """The options of a data set that are part of a run's identity."""
    location = [f.name for f in dataclasses.fields(config) if f.metadata.get("location")]
    copy = {} if config.cache_dir is None else {"resized_copy": resized_copy.KEY}
    return {key: value for key, value in _set_options(config).items() if key not in location} | copy


def custom_part(*names: str) -> dict[str, Any]:
    """Return the part of a run's config about the user's own networks; none where it has none of them."""
    identity = networks.custom_identity(*names)
    return {"networks": identity} if identity else {}


def batch_norm_part(config: Config, processes: int) -> dict[str, Any]:
    """Return the part of a run's identity about batch norm; empty where its statistics are those of the whole batch.

    processes: that train the run together. The statistics of their shares depend on their number.
    """
    if config.batch_norm_statistics == "global" or processes == 1:
        return {}
    return {BATCH_NORM: {"statistics": config.batch_norm_statistics, "processes": processes}}


def _set_options(options: Any) -> dict[str, Any]:
    """Return the fields of a data set's or a recipe's options without those that have the value of their default: an
    option with a default is younger than some recorded runs, whose configs lack it."""
    values = dataclasses.asdict(options)
    return {f.name: values[f.name] for f in dataclasses.fields(options) if values[f.name] != f.default}


def network_recipe(config: Config, network: str, method: MethodConfig | None = None) -> dict[str, Any]:
    """Return the recipe of one network, with its learning rate resolved and without its name.

    method: its published batch size and rate replace the recipe's where `recipe.per_method` is set.
    """
    recipe = _set_options(config.recipe)
    recipe.pop("name", None)
    default, light = recipe.pop("lr_default"), recipe.pop("lr_light")
    if recipe["lr"] is None:
        recipe["lr"] = light if networks.is_light(network) else default
    if recipe.pop("per_method", False) and method is not None:
        recipe |= method.recipe
    return recipe
