"""From `conf/` and the command line's overrides to typed, checked, fully resolved configs.

Hydra composes the tree in `conf/`; the dataclasses below are its schema. Everything a user can get wrong ends in a
`UserError` of one line with the nearest valid names.
"""

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from benchmark.config import method_files as method_file
from benchmark.config import pairs
from benchmark.data.datasets import DatasetConfig
from benchmark.errors import UserError, nearest
from methods.options import (
    boolean,
    bounded,
    dotted_names,
    dotted_values,
    integer,
    non_negative,
    one_of,
    option,
    positive,
    restrict,
    violations,
)  # fmt: skip

CONF = Path(__file__).resolve().parents[2] / "conf"
LISTS = {"pair": "wrn40_2-wrn16_2", "methods": "kd,clkd", "seeds": "0,1,2"}  # keys with a list, and an example
NOISE = ("object_type=", "reference_type=", "Config search path", "provider=")  # lines of Hydra's messages
PATHS = ("runs", "reports", "data", "teacher.checkpoint", "dataset.file", "dataset.root")
FULL_EPOCHS = 240  # length of the field's CIFAR recipe; `${scaled:n}` scales n of its epochs to `recipe.epochs`


@dataclass
class Recipe:
    """How a network is trained; the same for teacher, student alone and every method."""

    epochs: int = integer(1)
    batch_size: int = integer(2)
    lr: float | None = positive()  # null: lr_default, or lr_light for the light networks
    lr_default: float = positive()
    lr_light: float = positive()
    momentum: float = bounded(at_least=0.0, below=1.0)
    nesterov: bool = boolean()
    weight_decay: float = non_negative()
    milestones: list[float] = non_negative()  # the rate falls when the epoch, counted from 1, is greater
    gamma: float = positive()  # factor of each fall


@dataclass
class TeacherConfig:
    """Where the teacher comes from."""

    checkpoint: str | None = option()  # a file to import; null: train it
    seed: int = integer(0)
    method: str = option()  # what a teacher is trained with
    cache_gb: float = non_negative()  # the largest cache of its outputs; 0: none, it runs live
    # refuse a teacher below this test accuracy, per cent; null: twice chance
    min_top1: float | None = bounded(at_least=0.0, at_most=100.0)


@dataclass
class TrackerConfig:
    """Weights & Biases."""

    mode: str = one_of("auto", "online", "offline", "off")
    project: str = option()
    entity: str | None = option()
    init_timeout: float = positive()  # seconds to wait for the server before going on offline


@dataclass
class Config:
    """The whole command."""

    pair: list[str] = option()
    methods: list[str] = option()
    seeds: list[int] = integer(0)
    profile: str = option()
    dataset: DatasetConfig = option()
    recipe: Recipe = option()
    method: dict[str, Any] = option()
    teacher: TeacherConfig = option()
    tracker: TrackerConfig = option()
    precision: str = one_of("auto", "fp32", "bf16")
    device: str = one_of("auto", "cpu", "cuda")
    threads: int = integer(0)  # CPU threads of a cell; 0: all cores, shared by the jobs
    compile: bool = boolean()  # the network's training pass, the losses and the live teacher, by torch.compile
    cuda_graph: bool | None = boolean()  # record whole training steps and replay them; null: on a GPU
    jobs: int = integer(1)  # cells trained side by side
    runs: str = option()
    reports: str = option()
    data: str = option()


@dataclass(frozen=True)
class MethodConfig:
    """A method's YAML, resolved for one pair."""

    name: str
    implementation: str
    about: dict[str, Any]
    options: Any  # an instance of the implementation's Options
    tune: dict[str, Any]  # what `tune` searches where that is not the rule, by dotted name; no identity
    usual: Any  # the options without overrides; no identity

    def resolved(self) -> dict[str, Any]:
        """What of it belongs to a run's identity."""
        return {"name": self.name, "implementation": self.implementation, **dataclasses.asdict(self.options)}

    @property
    def values(self) -> dict[str, Any]:
        """The options by their dotted names."""
        return dotted_values(self.options)

    @property
    def changed(self) -> list[str]:
        """The options that are not as usual, by their dotted names."""
        usual = dotted_values(self.usual)
        return [n for n, v in self.values.items() if v != usual[n]]


def group(name: str) -> list[str]:
    """The names in one group of `conf/`, such as the methods or the data sets."""
    return sorted(p.stem for p in (CONF / name).glob("*.yaml"))


def load(overrides: Sequence[str]) -> Config:
    """The config of a whole command. Options of methods, given as `<method>.<option>=…`, are checked in `method`."""
    known = group("method")
    for override in overrides:
        if _key(override) == "method":
            raise UserError(f"{override} is not understood: the methods are chosen by methods=kd,clkd")
        _check_override(_for_hydra(override))
    shared = [o for o in map(_for_hydra, overrides) if is_shared(o)]
    config = cast(Config, _typed(Config, _compose(shared)))
    lists = pairs.lists()
    for name in config.pair:
        if "-" not in name and name not in lists:
            raise UserError(f"{name!r} is no <teacher>-<student>, as wrn40_2-wrn16_2, nor a list{nearest(name, lists)}")
    config.pair = [p for name in config.pair for p in lists.get(name, [name])]
    for name in config.methods:
        if name not in (*known, "all"):
            raise UserError(f"unknown method {name!r}{nearest(name, known)}")
    config.methods = known if "all" in config.methods else config.methods
    for what, values in (("pair", config.pair), ("methods", config.methods), ("seeds", config.seeds)):
        if not values:
            raise UserError(f"{what} is empty: give at least one, as in {what}={LISTS[what]}")
        if len(set(values)) < len(values):
            raise UserError(f"{what} names something twice: {', '.join(map(str, values))}")
    for name in {_key(o).split(".")[0] for o in overrides} & set(known) - set(config.methods):
        raise UserError(f"an option of {name} is given, but {name} is not among the methods {','.join(config.methods)}")
    for what in ("runs", "reports", "data"):
        setattr(config, what, str(Path(getattr(config, what)).expanduser()))
    for what in ("runs", "reports"):
        _check_folder(what, Path(getattr(config, what)))
    return config


def _check_folder(what: str, path: Path) -> None:
    there = next(p for p in (path.absolute(), *path.absolute().parents) if os.path.exists(p))
    if not there.is_dir():
        raise UserError(f"{what}={path}: {there} is a file; give a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{what}={path}: {there} cannot be written to; give another folder")


def method(name: str, pair: str, overrides: Sequence[str]) -> MethodConfig:
    """A method's options on a pair: its YAML, then what that has for the data set and the pair, then the overrides."""
    shared = [f"method={name}", *(o for o in map(_for_hydra, overrides) if is_shared(o))]
    composed = _compose(shared)
    found = composed.method
    plain = cast(dict[str, Any], OmegaConf.to_container(found))
    options = method_file.check(name, plain, group("dataset")).Options
    names = dotted_names(options)
    own = [re.sub(rf"^{name}\.", "method.", o) for o in overrides if _key(o).split(".")[0] in (name, "method")]
    for key in (_key(o).removeprefix("method.") for o in own):
        if key not in names:
            raise UserError(f"{name} has no option {key!r}{nearest(key, names)}")
    special = [f"method.{k}={v}" for k, v in _special(found, options, composed.dataset.name, pair).items()]

    def typed(given: list[str]) -> tuple[dict[str, Any], Any]:
        tree = _compose([*shared, *given]).method if given else found
        try:
            plain = cast(dict[str, Any], OmegaConf.to_container(tree, resolve=True))
        except OmegaConfBaseException as e:
            raise UserError(f"conf/method/{name}.yaml: {_one_line(e)}") from e
        return plain, _typed(options, OmegaConf.create(restrict(options, plain)), f"{name}.")

    tree, usual = typed(special)
    chosen = typed([*special, *own])[1] if own else usual
    about = dict.fromkeys(method_file.ABOUT) | tree["about"]
    return MethodConfig(name, tree["implementation"], about, chosen, _tune(tree, options), usual)


def _special(tree: Any, schema: type, dataset: str, pair: str, prefix: str = "") -> dict[str, Any]:
    """What a method's YAML has for the data set and the pair, by dotted name; first that of the parts."""
    found: dict[str, Any] = {}
    for f in dataclasses.fields(schema):
        if dataclasses.is_dataclass(f.type):
            found |= _special(tree[f.name], f.type, dataset, pair, f"{prefix}{f.name}.")
    own = {**tree.get("datasets", {}).get(dataset, {}), **tree.get("pairs", {}).get(pair, {})}
    return found | {prefix + k: v for k, v in own.items()}


def _tune(tree: Mapping[str, Any], schema: type, prefix: str = "") -> dict[str, Any]:
    """What a method's YAML says of its search space, by dotted name; first that of the parts."""
    found: dict[str, Any] = {}
    for f in dataclasses.fields(schema):
        if dataclasses.is_dataclass(f.type):
            found |= _tune(tree[f.name], f.type, f"{prefix}{f.name}.")
    return found | {prefix + k: v for k, v in tree.get("tune", {}).items()}


def changed(method: MethodConfig, options: Mapping[str, Any]) -> MethodConfig:
    """A method with some of its options changed, as overrides would change them; the values are checked likewise."""
    tree = OmegaConf.create(dataclasses.asdict(method.options))
    for name, value in options.items():
        OmegaConf.update(tree, name, value)
    typed = _typed(type(method.options), tree, f"{method.name}.")
    return dataclasses.replace(method, options=typed)


def is_shared(override: str) -> bool:
    """True for an override that is not about a method."""
    return _key(override).split(".")[0] not in ("method", *group("method"))


def _for_hydra(override: str) -> str:
    """An override as Hydra reads it: `seeds=0,1` is a list and no sweep, a path a text whatever is in it.

    Raises UserError for a list that is none.
    """
    key, _, value = override.partition("=")
    if key in PATHS and not re.match(r"['\"]|null$", value):
        escaped = re.sub(r"(\\+)$", r"\1\1", value).replace("'", "\\'")
        return f"{key}='{escaped}'"
    if key not in LISTS:
        return override
    inner = re.sub(r"^\[(.*)\]$", r"\1", value.strip())
    names = [name.strip().strip("'\"") for name in inner.split(",")] if inner.strip() else []
    if not all(re.fullmatch(r"[\w.-]+", name) for name in names):
        raise UserError(f"cannot read {override!r}: write names with commas between, as in {key}={LISTS[key]}")
    return f"{key}=[{','.join(names)}]"


def _key(override: str) -> str:
    return override.split("=", 1)[0].lstrip("+~").split("@")[0]


def _scaled(epochs: float, *, _root_: DictConfig) -> float:
    return float(epochs) * _root_.recipe.epochs / FULL_EPOCHS


def _compose(overrides: list[str]) -> DictConfig:
    """Hydra's composition, its errors put into one line."""
    ConfigStore.instance().store("schema", Config)
    OmegaConf.register_new_resolver("scaled", _scaled, replace=True)
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose("config", overrides)
    except HydraException as e:
        raise UserError(_explain(e, overrides)) from e
    except (OmegaConfBaseException, OverflowError) as e:
        raise UserError(_one_line(e)) from e
    except yaml.YAMLError as e:
        raise UserError(f"a file of conf/ is no YAML: {_one_line(e)}") from e


def _check_override(override: str) -> None:
    if not re.match(r"(?!hydra\.)[\w.@/]+=", override):
        raise UserError(f"{override!r} is not an override: write key=value, as in recipe.epochs=20")
    try:
        parsed = OverridesParser.create().parse_override(override)
    except HydraException as e:
        raise UserError(f"cannot read {override!r}: write key=value, and lists as key=[a,b]") from e
    key, value = parsed.key_or_group, parsed.value()
    if parsed.is_sweep_override():
        raise UserError(f"{key} takes one value, not {override.split('=', 1)[1]}")
    if (CONF / key).is_dir() and value not in group(key):
        raise UserError(f"unknown {key} {value!r}{nearest(str(value), group(key))}")


def _explain(e: HydraException, overrides: Sequence[str]) -> str:
    """Hydra's complaint as one line, with the nearest keys where a key is not known."""
    if isinstance(e, MissingConfigException):
        return _one_line(e)
    known = set(_keys(Config))
    for override in overrides:
        if (key := _key(override)) not in known and not key.startswith("method.") and not (CONF / key).is_dir():
            return f"unknown key {key!r}{nearest(key, known)}"
    return _one_line(e.__cause__ or e)


def _keys(schema: type, prefix: str = "") -> list[str]:
    """All dotted keys of a config dataclass."""
    found = []
    for f in dataclasses.fields(schema):
        found.append(prefix + f.name)
        if isinstance(f.type, type) and dataclasses.is_dataclass(f.type):
            found += _keys(f.type, f"{prefix}{f.name}.")
    return found


def _one_line(e: BaseException) -> str:
    lines = [s for s in map(str.strip, str(e).splitlines()) if s and not s.startswith(NOISE)]
    return "; ".join(lines).replace("full_key: ", "key ")


def _typed(schema: type, tree: DictConfig, prefix: str = "") -> Any:
    """An instance of a config dataclass: types by OmegaConf, limits by the fields' metadata."""
    try:
        OmegaConf.set_struct(tree, False)
        instance = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), tree))
    except (OmegaConfBaseException, OverflowError) as e:
        raise UserError(_one_line(e).replace("key ", f"key {prefix}", 1)) from e
    check_limits(instance, prefix)
    return instance


def check_limits(instance: Any, prefix: str = "") -> None:
    """Raise UserError for the first value, elements of lists included, that is outside the limits of its option."""
    for name, value, choices, reason in violations(instance, prefix):
        if value == "":
            raise UserError(f"{name} is empty: give a value, or leave {name}= out")
        if choices:
            raise UserError(f"{name} cannot be {value!r}{nearest(str(value), choices)}")
        raise UserError(f"{name} is {value}: {reason}")
