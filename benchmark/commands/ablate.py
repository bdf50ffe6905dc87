"""`ablate`: vary a method's options over a grid, train the runs, compare them on a validation split.

The settings are ordinary training runs. Before the students are trained, `<runs>/ablations/<name>.json` says what
belongs to the ablation, and `<reports>/ablations/<name>-sweep.yaml` is the same grid for Weights & Biases.
"""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark.commands import ablation_files
from benchmark.commands.ablation_grid import Grid, grid_from_options, load_grid
from benchmark.commands.ablation_plan import Ablation, AblationPlan, plan_ablations
from benchmark.commands.bench import report_unfinished, run_analysis, train
from benchmark.config import files
from benchmark.config.command_options import load_options
from benchmark.config.overrides import Sweep, key_of, method_of, parse_sweep
from benchmark.config.schema import AblateOptions
from benchmark.errors import UserError, nearest
from benchmark.runs.tracking import Tracking

METHOD = "clkd"  # where neither a method nor a grid is given


@dataclass(frozen=True)
class Request:
    """A parsed command line. grid_words: the words that request each grid, by its name."""

    options: AblateOptions
    grids: list[Grid]
    grid_words: dict[str, list[str]]
    overrides: list[str]


def run(words: Sequence[str]) -> int:
    """Plan, train, make tables and plots; return the exit status: 1 where runs did not finish."""
    request = parse(words)
    plan, overrides = plan_ablations(request.grids, request.overrides)
    tracking = Tracking(plan.config.tracker, plan.settings.runs)
    if request.options.setting is not None:
        return report_unfinished(train(single_setting(plan, request.options.setting), tracking))
    print(plan.text(), flush=True)
    if request.options.train == "none":
        return 0
    outcomes = []
    if not all(t.folder.done for t in plan.teachers.values()):
        outcomes = train(dataclasses.replace(plan, teachers_only=True), tracking)
        plan.ablations = [a for a in plan.ablations if _has_teacher(plan, a)]
        plan.teachers = {a.teacher: plan.teachers[a.teacher] for a in plan.ablations}
    for path in ablation_files.write(plan, request.grid_words, overrides):
        print(f"written: {path}", file=sys.stderr)
    if request.options.train == "teacher" or not plan.ablations:
        return report_unfinished(outcomes)
    student_outcomes = train(plan, tracking)
    status = _make_tables(plan, tracking, overrides, publish=bool(student_outcomes))
    return max(status, report_unfinished(outcomes + student_outcomes))


def parse(words: Sequence[str]) -> Request:
    """Parse the command line. Raises UserError for unknown grids and methods, and for contradictions."""
    options, others = load_options("ablate", AblateOptions, words)
    axes: dict[str, Sweep] = {}
    axis_words, overrides = [], []
    for word in others:
        if key_of(word) == "methods":
            raise UserError(f"{word} is not understood: an ablation is of one method, as in method=clkd")
        if (sweep := parse_sweep(word)) is not None:
            axes[key_of(word)] = sweep
            axis_words.append(word)
        else:
            overrides.append(word)
    if axes and options.grid:
        raise UserError(f"give either grid={','.join(options.grid)} or {', '.join(axes)}, not both")
    method = options.method or next(filter(None, map(method_of, axes)), None)
    if method is not None and method not in (names := files.group_names("method")):
        raise UserError(f"unknown method {method!r}{nearest(method, names)}")
    if axes:
        grids = [grid_from_options(method or METHOD, axes)]
        grid_words = {grids[0].name: [f"method={grids[0].method}", *axis_words]}
    else:
        grids = _choose_grids(options.grid, method)
        grid_words = {g.name: [f"grid={g.name}"] for g in grids}
    if options.setting is not None and len(grids) > 1:
        raise UserError("setting= chooses from one grid: give it as grid=…")
    return Request(options, grids, grid_words, overrides)


def single_setting(plan: AblationPlan, label: str) -> AblationPlan:
    """Return the plan of one setting or reference. Raises UserError where it cannot be trained now."""
    if len(plan.ablations) > 1:
        raise UserError("setting= chooses from one pair: give it as pair=…")
    (ablation,) = plan.ablations
    settings = {s.setting.label: s for s in (*ablation.references, *ablation.settings)}
    if label not in settings:
        raise UserError(f"{ablation.grid.name} has no setting {label!r}{nearest(label, settings)}")
    if settings[label].reason:
        raise UserError(f"{label} is not possible: {settings[label].reason}")
    if not plan.teachers[ablation.teacher].folder.done:
        raise UserError(f"the teacher {ablation.teacher} is not trained: give train=teacher instead of setting= first")
    ablation = dataclasses.replace(ablation, settings=[settings[label]], references=[])
    return dataclasses.replace(plan, ablations=[ablation])


def _choose_grids(names: Sequence[str], method: str | None) -> list[Grid]:
    """Return the grids of these names, or all grids of the method. Raises UserError where there are none."""
    if names:
        grids = [load_grid(name) for name in names]
    else:
        grids = [g for g in map(load_grid, files.group_names("ablation")) if g.method == (method or METHOD)]
    if not grids:
        raise UserError(f"there is no grid of {method} in conf/ablation: give an option's values, as {method}.x=1,2")
    for g in grids:
        if method is not None and g.method != method:
            raise UserError(f"the grid {g.name} is of {g.method}, not of {method}")
    return grids


def _has_teacher(plan: AblationPlan, ablation: Ablation) -> bool:
    """Return whether the teacher of an ablation is trained and accepted."""
    return plan.teachers[ablation.teacher].folder.done and not plan.rejection_reason(ablation.teacher)


def _make_tables(plan: AblationPlan, tracking: Tracking, words: Sequence[str], *, publish: bool) -> int:
    """Make tables and plots, publish them where new runs were trained; return the exit status."""
    config = plan.config
    stems = [ablation_files.file_stem(a, config) for a in plan.ablations]
    status = run_analysis(["ablation", f"runs={config.runs}", f"reports={config.reports}", f"name={','.join(stems)}"])
    if publish:
        directory = Path(config.reports) / ablation_files.FOLDER
        written = sorted(p for p in directory.glob("*") if p.stem.startswith(tuple(stems)))
        tags = [config.dataset.name, config.profile, "ablation"]
        tracking.publish(written, f"ablation {' '.join(stems)}", tags, {"overrides": list(words)})
    return status
