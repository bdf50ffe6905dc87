"""Build typed options from plain values: types by OmegaConf, limits by `methods.options`. Errors are one line."""

import os
import re
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from benchmark.config import files
from benchmark.config.schema import (
    ALL_IMAGES,
    DATASETS,
    RESIZED_CROP,
    USER_DATASETS,
    Config,
    DatasetConfig,
    Recipe,
    TeacherConfig,
)
from benchmark.errors import UserError, nearest
from methods.options import violations

NOISE = ("object_type=", "reference_type=", "Config search path", "provider=")  # beginnings of lines of messages
DATASET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
RAND_AUGMENT = re.compile(r"rand(-(mstd|mmax|inc|m|n|p|w)\d+(\.\d+)?)+")  # the sections of timm's notation
RESERVED_NAMES = (
    "ablations",
    "all",
    "slurm",
    "tensorboard",
    "trackio",
    "tuning",
    "wandb",
)  # other folders below that of all runs, and a filter of tables
EARLY_SIGNAL_S = 60  # by which Slurm may send the signal before a time limit earlier than it was asked to
Schema = TypeVar("Schema")


def build(schema: type[Schema], values: DictConfig, prefix: str = "") -> Schema:
    """Return an instance of a schema. prefix: of the option names in errors, such as `kd.`

    Raises UserError for a value of another type or outside the limits of its option.
    """
    try:
        resolved = OmegaConf.create(OmegaConf.to_container(values, resolve=True))  # types of interpolations count, too
        options: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), resolved))
    except (OmegaConfBaseException, OverflowError) as e:
        raise UserError(one_line(e).replace("key ", f"key {prefix}", 1)) from e
    check_limits(options, prefix)
    return options


def check_limits(options: Any, prefix: str = "") -> None:
    """Raise UserError for the first value, elements of lists included, that is outside the limits of its option."""
    for name, value, choices, reason in violations(options, prefix):
        if value == "":
            raise UserError(f"{name} is empty: give a value, or leave {name}= out")
        if choices:
            raise UserError(f"{name} cannot be {value!r}{nearest(str(value), choices)}")
        raise UserError(f"{name} is {value}: {reason}")


def check_dataset_name(config: DatasetConfig) -> None:
    """Raise UserError where the name of a data set is neither that of its source nor one that a user may choose."""
    name, source = config.name, config.source
    if name == source:
        return
    if source not in USER_DATASETS:
        user_datasets = " or ".join(f"dataset={kind}" for kind in USER_DATASETS)
        raise UserError(
            f"dataset.name is {name!r}, but {source} keeps its name: only data of {user_datasets} can be named"
        )
    if not DATASET_NAME.fullmatch(name):
        rule = "use letters, digits, _, - and ., the first a letter or digit"
        raise UserError(f"dataset.name is {name!r}: {rule}")
    if name.lower() in (*DATASETS, *RESERVED_NAMES):
        taken = "a data set of this suite" if name.lower() in DATASETS else "reserved"
        raise UserError(f"dataset.name cannot be {name!r}, which is {taken}: choose another name")


def check_teacher(config: TeacherConfig) -> None:
    """Raise UserError where `teacher.train_size` is neither a number of images nor `all`, and for two sources of one
    teacher."""
    if config.checkpoint is not None and config.pretrained:
        raise UserError("teacher.checkpoint and teacher.pretrained are two sources of one teacher: give one of them")
    size = config.train_size
    if size in (None, ALL_IMAGES) or (size.isdecimal() and int(size) > 0):
        return
    raise UserError(f"teacher.train_size is {size!r}: give a number of images, {ALL_IMAGES}, or null")


def check_recipe(recipe: Recipe, dataset: DatasetConfig) -> None:
    """Raise UserError where options of the recipe contradict each other or the data set."""
    if recipe.optimizer == "adamw" and (recipe.momentum or recipe.nesterov):
        raise UserError("recipe.optimizer=adamw has momenta of its own: give recipe.momentum=0 recipe.nesterov=false")
    if recipe.schedule == "cosine" and recipe.milestones:
        raise UserError("recipe.milestones are of recipe.schedule=step: give recipe.milestones=[]")
    if recipe.rand_augment is not None and dataset.augmentation != RESIZED_CROP:
        raise UserError(
            f"recipe.rand_augment is of streamed photographs, dataset.augmentation={RESIZED_CROP}: "
            "give recipe.rand_augment=null"
        )
    if recipe.rand_augment is not None and dataset.decoder == "dali":
        raise UserError("recipe.rand_augment is of images decoded by PIL: leave out dataset.decoder=dali")
    if recipe.rand_augment is not None and not RAND_AUGMENT.fullmatch(recipe.rand_augment):
        raise UserError(f"recipe.rand_augment is {recipe.rand_augment!r}: write it as timm does, rand-m9-mstd0.5-inc1")


def check_folder(key: str, path: Path) -> None:
    """Raise UserError where the folder of an option is a file."""
    if not (existing := _existing(path)).is_dir():
        raise UserError(f"{key}={path}: {existing} is a file; give a folder")


def check_writable(key: str, path: Path) -> None:
    """Raise UserError where the folder of an option cannot be written, or not be created."""
    if not os.access(existing := _existing(path), os.W_OK | os.X_OK):
        raise UserError(f"{key}={path}: {existing} is not writable; give another folder")


def _existing(path: Path) -> Path:
    return next(p for p in (path.absolute(), *path.absolute().parents) if os.path.exists(p))


def check_executor(config: Config) -> None:
    """Raise UserError for a key of another executor, and for resources that contradict the device."""
    executor, name = config.executor, config.executor.name
    path = files.CONF / "executor" / f"{name}.yaml"
    keys = yaml.safe_load(path.read_text(encoding="utf-8"))
    for key, value in vars(executor).items():
        if value is not None and key not in keys:
            raise UserError(f"executor.{key} is not a key of executor={name}{nearest(key, keys)}")
    check_distributed(config)
    if name == "local":
        return
    if config.jobs > 1:
        limit = "executor.array_parallelism" if name == "slurm" else "executor.cpus and executor.gpus"
        raise UserError(f"jobs is of executor=local: with executor={name}, the runs at a time follow from {limit}")
    if config.distributed:
        return
    if name == "ray" and (executor.gpus or 0) > 1:
        raise UserError(f"executor.gpus is {executor.gpus:g}: a run uses one GPU, or several with distributed=true")
    if name == "slurm" and executor.gpus not in (0, 1):
        more = "several with distributed=true; only Ray shares a GPU"
        raise UserError(f"executor.gpus is {executor.gpus}: on Slurm a run takes 0 or 1, {more}")
    if name == "slurm" and 60 * (executor.minutes or 0) <= (executor.signal_s or 0) + EARLY_SIGNAL_S:
        raise UserError(
            f"executor.minutes is {executor.minutes}: Slurm may end a run {EARLY_SIGNAL_S} s before executor.signal_s="
            f"{executor.signal_s}, which leaves it no time; give more minutes or a smaller executor.signal_s"
        )
    if config.device == "cuda" and not executor.gpus:
        raise UserError("device=cuda needs executor.gpus=1")
    if config.device == "cpu" and executor.gpus:
        raise UserError("device=cpu leaves a GPU unused: give executor.gpus=0")


def check_distributed(config: Config) -> None:
    """Raise UserError for keys that contradict `distributed`, and for what such a run cannot do."""
    if not config.distributed:
        for key, default in (("processes", None), ("batch_norm_statistics", "global")):
            if getattr(config, key) != default:
                raise UserError(
                    f"{key}={getattr(config, key)} is of runs that several processes train: distributed=true"
                )
        return
    if "TORCHELASTIC_RUN_ID" in os.environ:
        raise UserError("distributed=true starts the processes of a run itself: give the command without torchrun")
    for key, reason in (
        ("cuda_graph", "an exchange between processes cannot be captured in a step"),
        ("compile", "torch.compile does not see the exchanges between processes"),
    ):
        if getattr(config, key):
            raise UserError(f"distributed=true: {reason}; leave out {key}=true")
    if config.jobs > 1:
        raise UserError("distributed=true: a run takes the GPUs or cores of several; leave out jobs=")
    _check_gpus_of_processes(config)


def _check_gpus_of_processes(config: Config) -> None:
    """Raise UserError where the GPUs of a run on a cluster are not one for each process."""
    executor, gpus = config.executor, config.executor.gpus or 0
    if executor.name == "local":
        return
    if gpus != int(gpus):
        raise UserError(f"executor.gpus is {gpus:g}: with distributed=true each process has a whole GPU")
    if gpus and config.processes not in (None, gpus):
        raise UserError(f"processes is {config.processes}, executor.gpus {gpus:g}: each process has a GPU of its own")
    if not gpus and config.processes is None:
        raise UserError("distributed=true: give executor.gpus=, or the number of processes on CPUs, as in processes=2")
    if config.device == ("cpu" if gpus else "cuda"):
        raise UserError(f"device={config.device} contradicts executor.gpus={gpus:g}")


def one_line(e: BaseException) -> str:
    """Return the message of an OmegaConf or Hydra error as one line, without its noise."""
    lines = [s for s in map(str.strip, str(e).splitlines()) if s and not s.startswith(NOISE)]
    return "; ".join(lines).replace("full_key: ", "key ")
