"""The plan of an ablation: settings as ordinary training runs, with KD and the student alone as references.

The method's default is a setting of every grid. References are trained with every recipe that the grid has. The teacher
follows the command's own recipe in every setting.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmark.commands.ablation_grid import RECIPE, Grid, Setting, expand_grid, options_label
from benchmark.commands.bf16_speedup import bf16_speedup
from benchmark.commands.validation import hold_out_validation
from benchmark.config.compose import MethodComposer, change_options, load_config
from benchmark.config.overrides import keys_of, override_text
from benchmark.config.schema import AblateOptions, Config, MethodConfig, Recipe
from benchmark.errors import UserError, nearest
from benchmark.grid import plan as grid
from benchmark.grid.plan import MethodKey, Plan
from benchmark.grid.training_run import TrainingRun
from benchmark.runs import folder
from benchmark.statistics import few_images_note
from methods.contract import UnsupportedPair
from methods.options import dotted_names

REFERENCES = ("kd", "ce")


@dataclass(frozen=True)
class PlannedSetting:
    """A setting on a pair: the plan of its runs. reason: why it cannot be trained, or None."""

    setting: Setting
    plan: Plan
    method: MethodConfig
    reason: str | None

    @property
    def identity(self) -> str:
        """Equal for settings that resolve to the same runs."""
        recipe = dataclasses.asdict(self.plan.config.recipe)
        return folder.identity({"method": self.method.resolved(), "recipe": recipe})

    def runs(self, teacher: str) -> list[TrainingRun]:
        """Return its runs, one a seed; the teacher must be trained."""
        return [] if self.reason else self.plan.students(teacher)

    def runs_alone(self) -> list[TrainingRun]:
        """Return its runs, one a seed, where its method reads no teacher."""
        return [] if self.reason else self.plan.students_alone()

    def value(self, option: str) -> Any:
        """Return the setting's value of an option; None for one that its method lacks."""
        if option.startswith(RECIPE):
            return getattr(self.plan.config.recipe, option.removeprefix(RECIPE))
        return self.method.values.get(option)


@dataclass(frozen=True)
class Ablation:
    """A grid on a pair. default: the label of the setting that is the method's default."""

    grid: Grid
    teacher: str
    student: str
    axes: dict[str, list[Any]]
    settings: list[PlannedSetting]
    references: list[PlannedSetting]
    default: str

    @property
    def pair(self) -> str:
        """The pair, `<teacher>-<student>`."""
        return f"{self.teacher}-{self.student}"

    @property
    def rows(self) -> list[PlannedSetting]:
        """Settings and references."""
        return [*self.settings, *self.references]

    @property
    def varied_options(self) -> list[str]:
        """The options that any setting sets."""
        return list(dict.fromkeys(o for s in self.settings for o in [*self.axes, *s.setting.options]))


@dataclass
class AblationPlan(Plan):
    """The plan of one command: the runs of all its ablations, each once."""

    ablations: list[Ablation] = field(default_factory=list)
    teachers_only: bool = False

    def students(self, teacher: str) -> list[TrainingRun]:
        """Return the runs of a trained teacher, each once."""
        if self.teachers_only:
            return []
        return list({r.relative_path: r for _, s in self._settings_of(teacher) for r in s.runs(teacher)}.values())

    def awaiting(self, teacher: str) -> list[TrainingRun]:
        """Return no runs: the settings of an ablation are planned once their teacher is trained."""
        return []

    def taught_keys(self, teacher: str) -> list[MethodKey]:
        """Return the methods that read a teacher on its pairs; none in a plan of teachers alone."""
        return [] if self.teachers_only else super().taught_keys(teacher)

    def students_alone(self) -> list[TrainingRun]:
        """Return the runs of settings whose method reads no teacher, each once."""
        if self.teachers_only:
            return []
        return list({r.relative_path: r for a in self.ablations for s in a.rows for r in s.runs_alone()}.values())

    def run_count(self, teacher: str) -> int:
        """Return the number of runs that need a teacher to be trained before them."""
        settings = [(pair, s) for pair, s in self._settings_of(teacher) if not s.reason and s.plan.run_count(teacher)]
        return len({(pair, s.identity) for pair, s in settings}) * len(self.config.seeds)

    def text(self) -> str:
        """Return the plan, with a line for each ablation and for each setting that cannot be trained."""
        lines = [super().text()]
        if self.dataset.val is not None and (note := few_images_note(len(self.dataset.val.labels))):
            lines.append(note)
        for a in self.ablations:
            size = f"{len(a.settings)} settings × {len(self.config.seeds)} seeds"
            lines.append(f"ablation {a.grid.name} of {a.grid.method} on {a.pair}: {size} ({a.grid.description})")
            lines += [f"  not possible: {s.setting.label}: {s.reason}" for s in a.rows if s.reason]
        return "\n".join(lines)

    def _settings_of(self, teacher: str) -> Iterator[tuple[str, PlannedSetting]]:
        for a in self.ablations:
            if a.teacher == teacher:
                yield from ((a.pair, s) for s in a.rows)


def plan_ablations(grids: Sequence[Grid], words: Sequence[str]) -> tuple[AblationPlan, list[str]]:
    """Plan the runs of all grids on all pairs; return the plan, and the overrides behind it.

    Raises UserError for everything that cannot work, except a setting that does not suit its data or networks: that one
    is kept with its reason. Says where it holds out a validation split by itself.
    """
    names = list(dict.fromkeys([*(m for g in grids for m in g.methods), *REFERENCES]))
    words = [*words, f"methods=[{','.join(names)}]"]
    for g in grids:
        _check_fixed_options(g, words)
    config = load_config(words, dotted_names(AblateOptions))
    words = hold_out_validation(config, words)
    base = grid.make_plan(config, words, measure=bf16_speedup)
    options = {name: list(method.values) for (_, _, name), method in base.methods.items()}
    for g in grids:
        _check_option_names(g, options)
    planner = _Planner(base, words)
    ablations = [planner.ablation(g, teacher, student) for g in grids for teacher, student in base.pairs]
    shared = {f.name: getattr(base, f.name) for f in dataclasses.fields(base) if f.init}
    return AblationPlan(**shared, ablations=ablations), words


class _Planner:
    """Plans settings on top of the plan of all methods with the command's own recipe."""

    def __init__(self, base: Plan, words: Sequence[str]) -> None:
        self._base, self._words = base, words
        self._recipes: dict[str, tuple[Config, MethodComposer]] = {}  # by label

    def ablation(self, g: Grid, teacher: str, student: str) -> Ablation:
        """Plan a grid on a pair."""
        default = self._plan(teacher, student, Setting("default", g.method, {}))
        settings, axes = expand_grid(g, {o: default.value(o) for o in g.axes})
        planned = [self._plan(teacher, student, s) for s in settings]
        default_labels = [p.setting.label for p in planned if p.identity == default.identity]
        if not default_labels:
            planned.insert(0, default)
        recipes = {options_label(s.recipe_options): s.recipe_options for s in [default.setting, *settings]}
        references = self._references(teacher, student, list(recipes.values()))
        return Ablation(g, teacher, student, axes, planned, references, (default_labels or ["default"])[0])

    def _references(self, teacher: str, student: str, recipes: Sequence[Mapping[str, Any]]) -> list[PlannedSetting]:
        references: dict[str, PlannedSetting] = {}
        for name, options in itertools.product(REFERENCES, recipes):
            planned = self._plan(teacher, student, Setting(name, name, options))
            title = "Student" if name == "ce" else planned.method.about["title"]
            label = f"{title} ({options_label(options)})" if options else title
            planned = dataclasses.replace(planned, setting=Setting(label, name, options))
            references.setdefault(planned.identity, planned)
        return list(references.values())

    def _plan(self, teacher: str, student: str, setting: Setting) -> PlannedSetting:
        """Plan a setting. Its teacher is the base plan's, which the setting's recipe does not change."""
        base, place = self._base, (teacher, student, setting.method)
        config, method = base.config, base.methods[place]
        if setting.recipe_options:  # which an option of the method may follow, as a warm-up follows the epochs
            config, composer = self._with_recipe(setting.recipe_options)
            method = composer.method(setting.method, f"{teacher}-{student}")
        if setting.method_options:
            method = change_options(method, setting.method_options)
        config = dataclasses.replace(config, methods=[setting.method], pair=[f"{teacher}-{student}"])
        plan = dataclasses.replace(base, config=config, pairs=[place[:2]], methods={place: method})
        reason = base.unsupported.get(place)
        if setting.options:
            try:
                reason = grid.incompatibility(method, config, base.dataset, teacher, student)
            except UnsupportedPair as e:
                reason = str(e)
        return PlannedSetting(setting, plan, method, reason)

    def _with_recipe(self, options: Mapping[str, Any]) -> tuple[Config, MethodComposer]:
        if (label := options_label(options)) not in self._recipes:
            words = [*self._words, *(f"{k}={override_text(v)}" for k, v in options.items())]
            self._recipes[label] = load_config(words), MethodComposer(words)
        return self._recipes[label]


def _check_fixed_options(g: Grid, words: Sequence[str]) -> None:
    """Raise UserError for an option that both the command line and a setting of the grid set."""
    fixed = keys_of(words)
    for s in g.settings:
        method = s.method or g.method
        if set_twice := fixed & {o if o.startswith(RECIPE) else f"{method}.{o}" for o in s.options}:
            raise UserError(f"{min(set_twice)} is given, but the grid {g.name} sets it: leave it out")


def _check_option_names(g: Grid, options: Mapping[str, Sequence[str]]) -> None:
    """Raise UserError for an option that neither the method nor the recipe has. options: those of each method."""
    recipe = [f"{RECIPE}{f.name}" for f in dataclasses.fields(Recipe)]
    settings = [(g.method, g.axes), *((s.method or g.method, s.options) for s in g.settings)]
    for method, option in ((m, o) for m, of_setting in settings for o in of_setting):
        if option in options[method] or option in recipe:
            continue
        if "." not in option:
            raise UserError(f"{method} has no option {option!r}{nearest(option, options[method])}")
        known_keys = [*recipe, *(f"{method}.{o}" for o in options[method])]
        raise UserError(f"{option} is no option of {method} and no key of the recipe{nearest(option, known_keys)}")
