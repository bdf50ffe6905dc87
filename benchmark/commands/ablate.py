"""Ablations: a method's options varied over a grid, trained as ordinary cells, selected on a validation split.

A grid is a file of `conf/ablation/` or is given on the command line. It has one of three forms:

    axes      option -> values; every combination is a setting
    each      option -> values; one option at a time, the others at their defaults
    settings  a list of named settings: options, or another preset of the method (method: clkd_a1), or both

An option is one of the method's (nu) or a key of the recipe (recipe.batch_size). Values are a list, or

    {range: [a, b, step]}  range:a:b:step   a, a + step, … up to b, b included
    {log: [a, b, n]}       log:a:b:n        n values, evenly spaced on a log scale
    {decade: n}            decade:n         n values, likewise, from default ÷ √10 to default × √10; n is odd

the second column on the command line, where a list is a,b,c. The method's default is a setting of every grid. KD and
the student alone are trained beside it as references, with every recipe that the grid has. The teacher is that of the
command's own recipe in every setting.

Before the students are trained, `<runs>/ablations/<name>.json` says what belongs to the ablation (see `manifest`), and
`<reports>/ablations/<name>-sweep.yaml` is the same grid for Weights & Biases (see `sweep`).
"""

import contextlib
import dataclasses
import itertools
import math
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from benchmark.config import compose as configs
from benchmark.config.schema import Config, MethodConfig, Recipe
from benchmark.errors import UserError, nearest
from benchmark.grid import plan as grid
from benchmark.grid.executors import Processes
from benchmark.grid.plan import Plan
from benchmark.grid.run import Outcome, TrainingRun
from benchmark.runs import folder as store
from benchmark.runs.tracking import Tracking
from methods.contract import UnsupportedPair

METHOD = "clkd"  # where neither a method nor a grid is given
REFERENCES = ("kd", "ce")
VALIDATION = 0.1  # share of the training images that settings are selected on, where none is set
MOST = 1_000  # values of an axis, and settings of a grid
WIDE = 10.0  # an axis is drawn on a log scale from this ratio of its ends
FOLDER = "ablations"
SHARED = "recipe."
Spec = list[Any] | dict[str, Any]


# ---------------------------------------------------------------- grids


@dataclass
class SettingFile:
    """A setting as it stands in a grid's file."""

    label: str | None = None  # null: the terms, or the options
    method: str | None = None  # another preset of the method
    options: dict[str, Any] = field(default_factory=dict)
    terms: list[str] | None = None  # of the loss that are on, for a table with a column a term


@dataclass
class GridFile:
    """A file of `conf/ablation/`."""

    method: str = "???"
    description: str = "???"
    axes: dict[str, Any] = field(default_factory=dict)
    each: dict[str, Any] = field(default_factory=dict)
    settings: list[SettingFile] = field(default_factory=list)


@dataclass(frozen=True)
class Grid:
    """A grid before the defaults of a pair are known. form: axes, each or settings."""

    name: str
    method: str
    description: str
    form: str
    axes: Mapping[str, Spec]
    settings: Sequence[SettingFile]

    @property
    def methods(self) -> list[str]:
        """The method and the presets that stand for it."""
        return list(dict.fromkeys([self.method, *(s.method for s in self.settings if s.method)]))


@dataclass(frozen=True)
class Setting:
    """One row of an ablation. options: those of the method by name, those of the recipe as `recipe.<key>`."""

    label: str
    method: str
    options: Mapping[str, Any]
    terms: Sequence[str] | None = None

    @property
    def shared(self) -> dict[str, Any]:
        """The options that are not the method's."""
        return {k: v for k, v in self.options.items() if k.startswith(SHARED)}


def named(name: str) -> Grid:
    """A grid of `conf/ablation/`. Raises UserError where there is none of that name, or its file is not understood."""
    known = configs.group("ablation")
    if name not in known:
        raise UserError(f"unknown grid {name!r}{nearest(name, known)}")
    path = configs.CONF / "ablation" / f"{name}.yaml"
    try:
        found = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(GridFile), OmegaConf.load(path)))
    except (OmegaConfBaseException, yaml.YAMLError, OSError) as e:
        raise UserError(f"{path} is not a grid: {str(e).splitlines()[0]}") from e
    return of_file(name, found)


def of_file(name: str, file: GridFile) -> Grid:
    """A grid from its file's content."""
    forms = [f for f in ("axes", "each", "settings") if getattr(file, f)]
    if len(forms) != 1:
        raise UserError(f"the grid {name} needs one of axes, each and settings, not {' and '.join(forms) or 'none'}")
    return Grid(name, file.method, file.description, forms[0], file.axes or file.each, file.settings)


def values(option: str, spec: Spec, default: Any) -> list[Any]:
    """The values of an axis, described above. Raises UserError for a description that gives none."""
    whole = isinstance(default, int) and not isinstance(default, bool)
    if isinstance(spec, list):
        found = spec
    else:
        try:
            ((kind, numbers),) = spec.items()
            found = _numbers(kind, [numbers] if isinstance(numbers, int) else list(numbers), default, whole)
        except (AttributeError, TypeError, ValueError) as e:
            why = f" ({e})" if isinstance(e, ValueError) else ""
            raise UserError(
                f"{option} cannot be {_spec(spec)}{why}: give a list, range: [a, b, step], "
                "log: [a, b, n], or decade: n, on the command line as a,b,c, range:a:b:step, log:a:b:n or decade:n"
            ) from e
        found = list(dict.fromkeys(round(v) if whole else v for v in found))
    if not found:
        raise UserError(f"{option} has no values: give at least one")
    if len({repr(v) for v in found}) < len(found):
        raise UserError(f"{option} names a value twice: {', '.join(map(_text, found))}")
    return found


def _spec(spec: Any) -> str:
    return ", ".join(f"{k}: {v}" for k, v in spec.items()) if isinstance(spec, dict) else str(spec)


def _numbers(kind: str, given: list[float], default: Any, whole: bool) -> list[float]:
    if kind == "range":
        first, last, step = given
        if not step or (last - first) / step < 0:
            raise ValueError("its step does not lead from the first to the last")
        if (last - first) / step >= MOST:
            raise ValueError(f"these are more than {MOST:,} values")
        return [float(f"{first + i * step:.10g}") for i in range(math.floor((last - first) / step + 1e-9) + 1)]
    if kind == "log":
        first, last, n = given
        if min(first, last) <= 0 or n != int(n) or not 2 <= n <= MOST:
            raise ValueError(f"a log scale needs ends above 0 and 2 to {MOST:,} values")
        inner = (first * (last / first) ** (i / (n - 1)) for i in range(1, int(n) - 1))
        return [first, *(v if whole else float(f"{v:.3g}") for v in inner), last]
    if kind == "decade":
        (n,) = given
        if not isinstance(default, int | float) or isinstance(default, bool) or default <= 0:
            raise ValueError(f"its default is {_text(default)}, and a decade needs one above 0")
        if n != int(n) or not 3 <= n <= MOST or n % 2 == 0:
            raise ValueError(f"a decade has an odd number of values, 3 to {MOST:,}")
        factors = ((i, 10 ** (i / (n - 1))) for i in range(-(int(n) // 2), int(n) // 2 + 1))
        return [float(f"{default * f:.2g}") if i else default for i, f in factors]
    raise ValueError(f"unknown kind {kind!r}")


def settings(found: Grid, defaults: Mapping[str, Any]) -> tuple[list[Setting], dict[str, list[Any]]]:
    """A grid's settings, and the values of its axes. defaults: of the options that are axes."""
    axes = {o: values(o, spec, defaults[o]) for o, spec in found.axes.items()}
    if found.form == "axes" and (n := math.prod(map(len, axes.values()))) > MOST:
        raise UserError(f"the grid {found.name} has {n:,} settings, more than {MOST:,}: give fewer values")
    if found.form == "axes":
        made = [
            Setting(_label(point), found.method, point)
            for point in (dict(zip(axes, v, strict=True)) for v in itertools.product(*axes.values()))
        ]
    elif found.form == "each":
        made = [Setting("default", found.method, {})]
        made += [
            Setting(_label({o: v}), found.method, {o: v}) for o, vs in axes.items() for v in vs if v != defaults[o]
        ]
    else:
        made = []
        for s in found.settings:
            terms = None if s.terms is None else " + ".join(s.terms) or "none"
            label = s.label or terms or _label(s.options) or s.method or "default"
            made.append(Setting(label, s.method or found.method, s.options, s.terms))
    twice = {s.label for s in made if [m.label for m in made].count(s.label) > 1}
    if twice:
        raise UserError(f"the grid {found.name} has two settings labelled {', '.join(sorted(twice))}")
    return made, axes


def _label(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{k.removeprefix(SHARED)}={_text(v)}" for k, v in options.items())


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else _override(value)


def _override(value: Any) -> str:
    """A value as Hydra reads it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def _key(method: str, option: str) -> str:
    return option if option.startswith(SHARED) else f"{method}.{option}"


# ---------------------------------------------------------------- the command line


@dataclass(frozen=True)
class Request:
    """What was asked for. setting: train this one only, as a W&B agent does. train: all, teacher or none."""

    grids: list[Grid]
    overrides: list[str]
    words: dict[str, list[str]]  # of each grid, by which it is asked for
    setting: str | None
    train: str


def parse(arguments: Sequence[str]) -> Request:
    """The command line. Raises UserError for what cannot be meant."""
    own: dict[str, str] = {"train": "all"}
    axes: dict[str, Spec] = {}
    rest, words = [], []
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key in ("method", "grid", "setting", "train"):
            own[key] = value
        elif key == "methods":
            raise UserError(f"{argument} is not understood: an ablation is of one method, as in method=clkd")
        elif (axis := _axis(argument)) is not None:
            axes[key] = axis
            words.append(argument)
        else:
            rest.append(argument)
    if own["train"] not in (known := ("all", "teacher", "none")):
        raise UserError(f"train cannot be {own['train']!r}{nearest(own['train'], known)}")
    if axes and "grid" in own:
        raise UserError(f"give either grid={own['grid']} or {', '.join(axes)}, not both")
    prefixes = [k.split(".")[0] for k in axes if k.split(".")[0] in configs.group("method")]
    method = own.get("method") or next(iter(prefixes), None)
    if method is not None and method not in configs.group("method"):
        raise UserError(f"unknown method {method!r}{nearest(method, configs.group('method'))}")
    if axes:
        found = [_own_grid(method or METHOD, axes)]
        words = {found[0].name: [f"method={found[0].method}", *words]}
    else:
        if "grid" in own:
            found = [named(n.strip()) for n in own["grid"].strip("[]").split(",")]
        else:
            found = [g for g in map(named, configs.group("ablation")) if g.method == (method or METHOD)]
        if not found:
            raise UserError(
                f"there is no grid of {method} in conf/ablation: give an option's values, as {method}.x=1,2"
            )
        if other := [g for g in found if g.method != (method or g.method)]:
            raise UserError(f"the grid {other[0].name} is of {other[0].method}, not of {method}")
        words = {g.name: [f"grid={g.name}"] for g in found}
    if "setting" in own and len(found) > 1:
        raise UserError("setting= chooses from one grid: give it as grid=…")
    return Request(found, rest, words, own.get("setting"), own["train"])


def _axis(argument: str) -> Spec | None:
    """The values that an argument gives an option; None where it gives one, or is not about an option."""
    key, _, value = argument.partition("=")
    if re.match(r"(range|log|decade):", value):
        kind, *numbers = value.split(":")
        try:
            return {kind: [float(n) if re.search(r"[.e]", n.lower()) else int(n) for n in numbers]}
        except ValueError:
            raise UserError(f"cannot read {argument!r}: write range:a:b:step, log:a:b:n or decade:n") from None
    if key in ("pair", "seeds"):
        return None
    with contextlib.suppress(HydraException):
        parsed = OverridesParser.create().parse_override(argument)
        if parsed.is_choice_sweep():
            return [getattr(v, "text", v) for v in parsed.value().list]
    return None


def _own_grid(method: str, axes: Mapping[str, Spec]) -> Grid:
    own = {k.removeprefix(f"{method}."): v for k, v in axes.items()}
    name = "-".join([method, *(o.removeprefix(SHARED) for o in own)])
    return Grid(name, method, " × ".join(axes), "axes", own, [])


def _check_names(found: Grid, own: Mapping[str, Sequence[str]]) -> None:
    """Raise UserError for an option that neither the method nor the recipe has. own: the options of each method."""
    shared = [f"{SHARED}{f.name}" for f in dataclasses.fields(Recipe)]
    pairs = [(found.method, found.axes), *((s.method or found.method, s.options) for s in found.settings)]
    for method, option in ((m, o) for m, options in pairs for o in options):
        if option in own[method] or option in shared:
            continue
        if "." not in option:
            raise UserError(f"{method} has no option {option!r}{nearest(option, own[method])}")
        full = [*shared, *(f"{method}.{o}" for o in own[method])]
        raise UserError(f"{option} is neither an option of {method} nor a key of the recipe{nearest(option, full)}")


# ---------------------------------------------------------------- planning


@dataclass(frozen=True)
class Entry:
    """A setting on a pair: the plan of its cells, or why there can be none."""

    setting: Setting
    plan: Plan
    method: MethodConfig
    why: str | None

    @property
    def identity(self) -> str:
        """Equal for settings that resolve to the same cells."""
        return store.identity({"method": self.method.resolved(), "recipe": dataclasses.asdict(self.plan.config.recipe)})

    def cells(self, teacher: str) -> list[TrainingRun]:
        """Its cells, one a seed, once its teacher is trained."""
        return [] if self.why else self.plan.students(teacher)

    def value(self, option: str) -> Any:
        """An option as the setting has it; None for one that its method has not."""
        if option.startswith(SHARED):
            return getattr(self.plan.config.recipe, option.removeprefix(SHARED))
        return self.method.values.get(option)


@dataclass(frozen=True)
class Ablation:
    """A grid on a pair. default: the label of the entry that is the method's default."""

    grid: Grid
    teacher: str
    student: str
    axes: dict[str, list[Any]]
    entries: list[Entry]
    references: list[Entry]
    default: str

    @property
    def pair(self) -> str:
        return f"{self.teacher}-{self.student}"

    @property
    def varied(self) -> list[str]:
        """The options that any setting sets."""
        return list(dict.fromkeys(o for e in self.entries for o in [*self.axes, *e.setting.options]))


@dataclass
class Study(Plan):
    """The plan of one command: all cells of its ablations, each once."""

    ablations: list[Ablation] = field(default_factory=list)

    def entries(self, teacher: str) -> Iterator[tuple[str, Entry]]:
        """All entries of a teacher, with the pair."""
        for a in self.ablations:
            if a.teacher == teacher:
                yield from ((a.pair, e) for e in (*a.entries, *a.references))

    def students(self, teacher: str) -> list[TrainingRun]:
        return list({c.relative_path: c for _, e in self.entries(teacher) for c in e.cells(teacher)}.values())

    def run_count(self, teacher: str) -> int:
        return len({(p, e.identity) for p, e in self.entries(teacher) if not e.why}) * len(self.config.seeds)

    def text(self) -> str:
        lines = [super().text()]
        for a in self.ablations:
            many = f"{len(a.entries)} settings × {len(self.config.seeds)} seeds"
            lines.append(f"ablation {a.grid.name} of {a.grid.method} on {a.pair}: {many} ({a.grid.description})")
            lines += [f"  impossible: {e.setting.label}: {e.why}" for e in (*a.entries, *a.references) if e.why]
        return "\n".join(lines)


class _TeachersFirst(Study):
    """The same, but for the students."""

    def students(self, teacher: str) -> list[TrainingRun]:
        return []


def plan(request: Request) -> tuple[Study, list[str]]:
    """Plan all cells, and the overrides they were planned with. Raises UserError for anything that cannot work, but for
    a setting that its data or networks do not allow: that is kept with its reason."""
    names = list(dict.fromkeys([*(m for g in request.grids for m in g.methods), *REFERENCES]))
    overrides = [*request.overrides, f"methods=[{','.join(names)}]"]
    for found in request.grids:
        fixed = {o.split("=")[0] for o in overrides}
        for s in found.settings:
            if both := fixed & {_key(s.method or found.method, o) for o in s.options}:
                raise UserError(f"{min(both)} is given, but the grid {found.name} sets it: leave it out")
    config = configs.load(overrides)
    if config.dataset.validation == 0:
        overrides.append(f"dataset.validation={VALIDATION}")
        print(f"dataset.validation is set to {VALIDATION}: settings are selected on that share of the training images")
        config.dataset.validation = VALIDATION
    base = grid.make_plan(config, overrides)
    own = {n: list(m.values) for (_, _, n), m in base.methods.items()}
    for found in request.grids:
        _check_names(found, own)
    study = Study(**{f.name: getattr(base, f.name) for f in dataclasses.fields(base)})
    for found in request.grids:
        for teacher, student in base.pairs:
            study.ablations.append(_ablation(found, base, teacher, student, overrides))
    return study, overrides


def _ablation(found: Grid, base: Plan, teacher: str, student: str, overrides: list[str]) -> Ablation:
    recipes: dict[str, Config] = {}  # each composed once

    def entry(setting: Setting) -> Entry:
        return _entry(base, teacher, student, setting, overrides, recipes)

    default = entry(Setting("default", found.method, {}))
    made, axes = settings(found, {o: default.value(o) for o in found.axes})
    entries = [entry(s) for s in made]
    known = [e.setting.label for e in entries if e.identity == default.identity]
    if not known:
        entries.insert(0, default)
    shared = {_label(s.shared): s.shared for s in [default.setting, *made]}
    references, seen = [], set()
    for name, options in itertools.product(REFERENCES, shared.values()):
        reference = entry(Setting(name, name, options))
        if reference.identity not in seen:
            seen.add(reference.identity)
            title = "Student" if name == "ce" else reference.method.about["title"]
            label = f"{title} ({_label(options)})" if options else title
            references.append(dataclasses.replace(reference, setting=Setting(label, name, options)))
    return Ablation(found, teacher, student, axes, entries, references, known[0] if known else "default")


def _entry(
    base: Plan, teacher: str, student: str, setting: Setting, overrides: list[str], recipes: dict[str, Config]
) -> Entry:  # fmt: skip
    """A setting's plan. Its teacher is the base plan's, which a recipe of its own does not change."""
    name, config, chosen = setting.method, base.config, base.methods[teacher, student, setting.method]
    if setting.shared:  # which an option of the method may follow, as a warm-up follows the epochs
        given = [*overrides, *(f"{k}={_override(v)}" for k, v in setting.shared.items())]
        if (key := _label(setting.shared)) not in recipes:
            recipes[key] = configs.load(given)
        config, chosen = recipes[key], configs.method(name, f"{teacher}-{student}", given)
    if own := {k: v for k, v in setting.options.items() if k not in setting.shared}:
        chosen = configs.changed(chosen, own)
    one = dataclasses.replace(config, methods=[name], pair=[f"{teacher}-{student}"])
    place = (teacher, student, name)
    its = dataclasses.replace(base, config=one, pairs=[place[:2]], methods={place: chosen})
    try:
        why = (
            grid.incompatibility(chosen, one, base.dataset, teacher, student)
            if setting.options
            else base.unsupported.get(place)
        )
    except UnsupportedPair as e:
        why = str(e)
    return Entry(setting, its, chosen, why)


# ---------------------------------------------------------------- what is written


def name(ablation: Ablation, config: Config) -> str:
    """The stem of an ablation's files: <dataset>-<profile>-<pair>-<grid>."""
    parts = (config.dataset.name, config.profile, ablation.pair, ablation.grid.name)
    return re.sub(r"[^\w.+-]", "_", "-".join(parts))


def manifest(ablation: Ablation, config: Config, images: int) -> dict[str, Any]:
    """What belongs to an ablation, with the run folder of every seed relative to <runs>; its teacher must be trained.

    settings and references: label, method, options (as given), values (of all options that the grid varies), terms,
    runs (folder by seed), impossible (why it cannot be trained, or null).
    axes: by option its values and whether it is drawn on a log scale. images: size of the validation split.
    """

    def row(entry: Entry) -> dict[str, Any]:
        return {
            "label": entry.setting.label,
            "method": entry.setting.method,
            "options": dict(entry.setting.options),
            "values": {o: entry.value(o) for o in ablation.varied},
            "terms": entry.setting.terms,
            "runs": {str(c.config["seed"]): c.relative_path for c in entry.cells(ablation.teacher)},
            "impossible": entry.why,
        }

    title = next(e for e in ablation.entries if e.setting.label == ablation.default).method.about["title"]
    return {
        "name": name(ablation, config),
        "grid": ablation.grid.name,
        "description": ablation.grid.description,
        "dataset": config.dataset.name,
        "profile": config.profile,
        "pair": ablation.pair,
        "method": ablation.grid.method,
        "title": title,
        "epochs": config.recipe.epochs,
        "validation": config.dataset.validation,
        "validation_images": images,
        "seeds": config.seeds,
        "form": ablation.grid.form,
        "axes": {o: {"values": v, "log": _is_log(ablation.grid.axes[o], v)} for o, v in ablation.axes.items()},
        "default": ablation.default,
        "settings": [row(e) for e in ablation.entries],
        "references": [row(e) for e in ablation.references],
    }


def _is_log(spec: Spec, found: Sequence[Any]) -> bool:
    if isinstance(spec, dict):
        return "range" not in spec
    if any(isinstance(v, bool) or not isinstance(v, int | float) or v <= 0 for v in found):
        return False
    return max(found) >= WIDE * min(found)


def sweep(ablation: Ablation, config: Config, words: Sequence[str]) -> dict[str, Any]:
    """A W&B sweep over the same settings and seeds, references included, one cell a W&B run.

    Its command is this one with `setting` and `seeds`, not `bench`: the settings of a grid are no product of options,
    the teacher must not follow a setting's recipe, and `bench` would log its report into the agent's run.
    """
    labels = [e.setting.label for e in (*ablation.entries, *ablation.references) if not e.why]
    return {
        "name": name(ablation, config),
        "description": f"{ablation.grid.method}: {ablation.grid.description}",
        "project": config.tracker.project,
        "program": "benchmark",
        "command": ["${env}", "${interpreter}", "-m", "${program}", "ablate", *words, "${args_no_hyphens}"],
        "method": "grid",
        "metric": {"name": "val_top1", "goal": "maximize"},
        "parameters": {"setting": {"values": labels}, "seeds": {"values": list(config.seeds)}},
    }


def _write(study: Study, request: Request, overrides: Sequence[str]) -> list[Path]:
    written = []
    config = study.config
    for a in study.ablations:
        written.append(Path(config.runs) / FOLDER / f"{name(a, config)}.json")
        store.write_json(written[-1], manifest(a, config, len(study.dataset.val.labels)))
        fixed = [o for o in overrides if o.split("=")[0] not in ("pair", "seeds", "methods", "tracker.mode")]
        text = yaml.safe_dump(
            sweep(a, config, [*request.words[a.grid.name], f"pair={a.pair}", *fixed]), sort_keys=False
        )
        written.append(Path(config.reports) / FOLDER / f"{name(a, config)}-sweep.yaml")
        head = (
            "# The ablation as a W&B sweep: `wandb sweep <this file>`, then `wandb agent <id>`, both in the folder\n"
            "# where it was made and with its environment active. The teacher must be trained; finished cells are\n"
            "# skipped. Then the command that wrote this file trains what is left and makes the tables.\n"
        )
        store.write_text(written[-1], head + text)
    return written


# ---------------------------------------------------------------- the command


def run(arguments: Sequence[str]) -> int:
    """Plan, train, tabulate; returns the exit status: 1 where cells did not finish."""
    request = parse(arguments)
    study, overrides = plan(request)
    tracking = Tracking(study.config.tracker, study.settings.runs)
    if request.setting is not None:
        return _ended(_train(only(study, request.setting), tracking))
    print(study.text(), flush=True)
    if request.train == "none":
        return 0
    outcomes = []
    if not all(c.folder.done for c in study.teachers.values()):
        outcomes = _train(_TeachersFirst(**vars(study)), tracking)
        study.ablations = [a for a in study.ablations if _taught(study, a)]
        study.teachers = {a.teacher: study.teachers[a.teacher] for a in study.ablations}
    for path in _write(study, request, overrides):
        print(f"written: {path}", file=sys.stderr)
    if request.train == "teacher" or not study.ablations:
        return _ended(outcomes)
    trained = _train(study, tracking)
    return max(_report(study, tracking, overrides, publish=bool(trained)), _ended(outcomes + trained))


def _taught(study: Study, ablation: Ablation) -> bool:
    """True where the teacher of an ablation is trained and fit to teach."""
    return study.teachers[ablation.teacher].folder.done and not study.rejection_reason(ablation.teacher)


def only(study: Study, label: str) -> Study:
    """The plan of one setting or reference alone."""
    if len(study.ablations) > 1:
        raise UserError("setting= chooses from one pair: give it as pair=…")
    (ablation,) = study.ablations
    known = {e.setting.label: e for e in (*ablation.references, *ablation.entries)}
    if label not in known:
        raise UserError(f"{ablation.grid.name} has no setting {label!r}{nearest(label, known)}")
    if known[label].why:
        raise UserError(f"{label} is impossible: {known[label].why}")
    if not study.teachers[ablation.teacher].folder.done:
        raise UserError(f"the teacher {ablation.teacher} is not trained: give train=teacher instead of setting= first")
    return dataclasses.replace(
        study, ablations=[dataclasses.replace(ablation, entries=[known[label]], references=[])]
    )  # fmt: skip


def _train(study: Study, tracking: Tracking) -> list[Outcome]:
    """Train what is missing; how every cell that was not done before ended."""
    if study.config.jobs == 1:
        return grid.run_plan(study, tracking)
    with Processes(study.config.jobs) as executor:
        return grid.run_plan(study, tracking, executor)


def _ended(outcomes: Sequence[Outcome]) -> int:
    """Name the cells that did not finish; the exit status."""
    unfinished = [o for o in outcomes if o.status != "done"]
    for o in unfinished:
        print(f"not finished: {o.name}: {o.status}{': ' + o.reason if o.reason else ''}", file=sys.stderr)
    return 1 if unfinished else 0


def _report(study: Study, tracking: Tracking, overrides: Sequence[str], *, publish: bool) -> int:
    """Tables and plots by a process of their own, so that training never depends on what draws; its exit status."""
    config = study.config
    names = [name(a, config) for a in study.ablations]
    sys.stdout.flush()
    command = ["ablation", f"runs={config.runs}", f"reports={config.reports}", f"name={','.join(names)}"]
    status = subprocess.run([sys.executable, "-m", "analysis", *command], check=False).returncode
    if publish:
        files = sorted(p for p in (Path(config.reports) / FOLDER).glob("*") if p.stem.startswith(tuple(names)))
        about = [config.dataset.name, config.profile, "ablation"]
        tracking.publish(files, f"ablation {' '.join(names)}", about, {"overrides": list(overrides)})
    return status
