"""`make tune`: the weights of one method chosen on the validation split, with the same budget for every method.

The budget is a number of trials, each of the same seeds and epochs. A trial is one setting of the method's options; its
runs are ordinary cells in the ordinary run store, shared with `bench` where they are the same. The first trial is the
published default, so that a chosen setting is never worse than it on the split it was chosen by; the others are
proposed by Optuna's TPE sampler. What is maximised is `val_top1` at the last epoch, mean over the seeds. The test set
plays no part in the choice; it is read when the choice is made, for the default and the chosen setting.

Pruning: the first seed is watched epoch by epoch, from half of its epochs on, and each further seed once it is done; a
trial below the median of the earlier ones (Optuna's MedianPruner, after five complete trials) is given up. Its run
keeps the status "running" with a free lock, as an interrupted one: `bench` goes on with it where it is asked for the
same cell. A trial that diverges ends there too, with the reason.

The study is Optuna's journal, `<runs>/tuning/<dataset>-<profile>-<pair>-<method>-<id>.journal`; the id is a hash of the
default's identity, the seeds, the space and the sampler's seed. The same command runs just the trials that are missing.
A killed trial stands in the journal as FAIL and is repeated alike: each proposal depends on the sampler's seed, the
trial's number and the trials finished before it, not on what was killed or taken from the store.

Search space: every tunable option that is not 0 (see `methods.options`), log-uniform from a tenth to ten times its
default on the pair and data set. An option given on the command line is fixed. A method's YAML may say otherwise:

    tune:
      temperature: { low: 1, high: 16 }  # log-uniform; with log: false uniform
      nmse_reduction: [vector, mean]     # one of these
      warmup: null                       # stays at its default
"""

import csv
import dataclasses
import functools
import io
import math
import statistics
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from benchmark.config import compose as configs
from benchmark.config.schema import MethodConfig
from benchmark.errors import UserError, nearest
from benchmark.grid import plan as grid
from benchmark.grid.plan import Plan
from benchmark.grid.progress import Progress
from benchmark.grid.run import Outcome, TrainingRun, execute
from benchmark.runs import folder as store
from benchmark.runs.tracking import Tracking
from benchmark.statistics import mean_interval
from benchmark.training.seeding import seed_for
from methods.contract import UnsupportedPair
from methods.options import leaf_fields, limits_of

BUDGET = {"trials": (20, 1), "sampler_seed": (0, 0)}  # the command's own keys: default and least value
VALIDATION = 0.1  # share of the training images that is held out where the config holds none
DECADE = 10.0  # the default space reaches from default / DECADE to default × DECADE
COMPLETE_BEFORE_PRUNING = 5  # trials


class Pruned(BaseException):
    """A trial is given up. Not an Exception: like Ctrl-C it leaves the run interrupted, not failed."""

    def __init__(self, state: str, epoch: int, reason: str) -> None:
        super().__init__(reason)
        self.state, self.epoch, self.reason = state, epoch, reason


class Unfinished(Exception):
    """A run neither finished nor diverged, so that its trial says nothing."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(f"{outcome.name}: {outcome.status}{': ' + outcome.reason if outcome.reason else ''}")


class Watched(Progress):
    """Progress that hands the line of each epoch on to `watch`, which may end the run by raising Pruned."""

    watch: Callable[[Mapping[str, Any]], None]

    def epoch(self, line: Mapping[str, Any]) -> None:
        super().epoch(line)
        self.watch(line)


@dataclass(frozen=True)
class Trial:
    """A finished trial."""

    number: int  # from 1, the default
    state: str  # complete, pruned, diverged
    options: dict[str, Any]  # of the search space, as they were run
    val: dict[int, float]  # val_top1 at the last epoch of each seed that was trained to its end
    seed: int | None = None  # where it was given up: the seed, and the epochs done of it
    epoch: int | None = None
    reason: str = ""

    @property
    def mean(self) -> float:
        """The objective; of a complete trial."""
        return statistics.fmean(self.val.values())


@dataclass(frozen=True)
class Tuning:
    """One tuning, planned; its teacher must be trained."""

    overrides: Sequence[str]  # of the command, without the budget
    plan: Plan  # of the default
    trials: int
    sampler_seed: int
    space: Mapping[str, BaseDistribution]

    @property
    def method(self) -> MethodConfig:
        """The default."""
        return next(iter(self.plan.methods.values()))

    @property
    def pair(self) -> str:
        return "-".join(self.plan.pairs[0])

    @property
    def seeds(self) -> list[int]:
        return self.plan.config.seeds

    @property
    def epochs(self) -> int:
        return self.plan.config.recipe.epochs

    @functools.cached_property
    def stem(self) -> str:
        """Names the study and its reports; tunings that are not the same never share one."""
        space = {k: optuna.distributions.distribution_to_json(d) for k, d in self.space.items()}
        default = self.cells({})[0].identity
        rest = store.identity({"default": default, "of": self.seeds, "space": space, "sampler": self.sampler_seed})
        return f"{self.plan.dataset.name}-{self.plan.config.profile}-{self.pair}-{self.method.name}-{rest}"

    @property
    def journal(self) -> Path:
        return self.plan.settings.runs / "tuning" / f"{self.stem}.journal"

    def report(self, suffix: str) -> Path:
        return Path(self.plan.config.reports) / "tuning" / f"{self.stem}{suffix}"

    def cells(self, options: Mapping[str, Any]) -> list[TrainingRun]:
        """The cells, one a seed, of the default with `options` changed."""
        chosen = {key: configs.changed(method, options) for key, method in self.plan.methods.items()}
        return dataclasses.replace(self.plan, methods=chosen).students(self.plan.pairs[0][0])

    def defaults(self) -> dict[str, Any]:
        """The default's values of the options that are tuned."""
        return {k: self.method.values[k] for k in self.space}

    def study(self) -> optuna.Study:
        """The study, made or read; raises UserError where its journal cannot be read."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            if self.journal.exists():  # a line that was cut short, by a full disk, would spoil those after it
                text = self.journal.read_bytes().decode()
                if not text.endswith("\n"):
                    store.write_text(self.journal, text[: text.rfind("\n") + 1])
            return optuna.create_study(
                storage=JournalStorage(JournalFileBackend(str(self.journal))), study_name=self.stem,
                direction="maximize", load_if_exists=True, pruner=optuna.pruners.MedianPruner(
                    n_startup_trials=COMPLETE_BEFORE_PRUNING, n_warmup_steps=self.epochs // 2
                ),
            )  # fmt: skip
        except (ValueError, KeyError) as e:
            raise UserError(f"{self.journal} is damaged ({e}): move it away to begin this tuning anew") from e


def run(overrides: Sequence[str]) -> int:
    """Tune, or go on tuning, and write the reports; returns the exit status. Raises UserError for bad input."""
    tuning = plan(overrides)
    config = tuning.plan.config
    tracking = Tracking(config.tracker, tuning.plan.settings.runs)
    print(_announcement(tuning), flush=True)
    teacher_alone = dataclasses.replace(tuning.plan, config=dataclasses.replace(config, seeds=[]))
    if bad := [o for o in grid.run_plan(teacher_alone, tracking) if o.status != "done"]:
        print(f"not finished: {Unfinished(bad[0])}", file=sys.stderr)
        return 1
    with store.lock(tuning.journal.with_suffix(".lock")):
        study = tuning.study()
        try:
            _run_missing(tuning, study, tracking)
            trials = finished(study)[: tuning.trials]
            complete = [t for t in trials if t.state == "complete"]
            if not complete:
                print(f"no trial was complete: {trials[-1].reason}", file=sys.stderr)
                return 1
            chosen = max(complete, key=lambda t: t.mean)  # the first of equals
            tests = {
                t.number: [_outcome(c, tracking, Progress(1))["top1_last"] for c in _cells_of(tuning, t)]
                for t in {trials[0].number: trials[0], chosen.number: chosen}.values()
                if t.state == "complete"
            }
        except (Unfinished, Pruned) as e:
            print(f"not finished: {e}", file=sys.stderr)
            return 1
    store.write_text(tuning.report(".csv"), history(tuning, trials))
    store.write_text(tuning.report(".yaml"), overlay(tuning, chosen))
    text = summary(tuning, trials, chosen, tests)
    store.write_text(tuning.report(".md"), text)
    print(f"\n{text}")
    for suffix in (".md", ".csv", ".yaml"):
        print(f"written: {tuning.report(suffix)}", file=sys.stderr)
    tags = [tuning.plan.dataset.name, config.profile]
    tracking.publish([tuning.report(".csv")], f"tuning {tuning.stem}", tags, {"overrides": list(overrides)})
    return 0


def plan(overrides: Sequence[str]) -> Tuning:
    """Check everything; nothing is trained. Says where it holds out a validation split by itself."""
    budget, rest = _budget(overrides)
    config = configs.load(rest)
    if len(config.methods) > 1:
        raise UserError("tune takes one method: give methods=clkd, or METHOD=clkd to make")
    if len(config.pair) > 1:
        raise UserError(f"tune takes one pair, not {', '.join(config.pair)}: weights are chosen for a pair")
    if config.jobs > 1:
        raise UserError("tune trains one cell at a time, as pruning watches it: leave jobs at 1")
    if config.dataset.validation == 0:
        rest.append(f"dataset.validation={VALIDATION}")
        config = configs.load(rest)
        print(f"dataset.validation is set to {VALIDATION}: teacher and students are trained on the rest")
    made = grid.make_plan(config, rest)
    method = next(iter(made.methods.values()))
    fixed = _fixed(rest)
    space = search_space(method, fixed)
    if not space:
        raise UserError(f"{method.name} has no option to tune" + (" but those given" if fixed else ""))
    for name, distribution in space.items():
        for value in () if isinstance(distribution, FloatDistribution) else _ends(distribution):
            try:
                why = grid.incompatibility(configs.changed(method, {name: value}), config, made.dataset, *made.pairs[0])
            except UnsupportedPair as e:
                why = str(e)
            if why:
                raise UserError(f"tune.{name}: {why}")
    return Tuning(rest, made, budget["trials"], budget["sampler_seed"], space)


def search_space(method: MethodConfig, fixed: Collection[str] = ()) -> dict[str, BaseDistribution]:
    """The distribution of every option that is tuned, by name; see the head of this module for the rule.

    Raises UserError where the YAML's `tune` names no option, is not readable, or leaves out the default.
    """
    fields = leaf_fields(type(method.options))
    for name in method.tune:
        if name not in fields:
            raise UserError(f"tune of {method.name} names {name!r}, which is no option of it{nearest(name, fields)}")
    found: dict[str, BaseDistribution] = {}
    for name, field in fields.items():
        default = method.values[name]
        if name in fixed:
            continue
        if name in method.tune:
            if method.tune[name] is not None:
                found[name] = _declared(method, name, method.tune[name])
        elif isinstance(default, float) and default and limits_of(field).tunable:
            found[name] = FloatDistribution(default / DECADE, default * DECADE, log=True)
    return found


def words(method: str, options: Mapping[str, Any]) -> list[str]:
    """Options as overrides of the command line, such as `kd.temperature=3.5`."""
    return [f"{method}.{k}={str(v).lower() if isinstance(v, bool) else v}" for k, v in options.items()]


def finished(study: optuna.Study) -> list[Trial]:
    """The finished trials of a study, numbered in their order from 1; attempts that were killed are left out."""
    found = [t for t in study.get_trials(deepcopy=False) if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    return [_read(i, t) for i, t in enumerate(found, 1)]


def history(tuning: Tuning, trials: Sequence[Trial]) -> str:
    """All trials as CSV."""
    head = [
        "trial", "state", *tuning.space, *(f"val_seed_{s}" for s in tuning.seeds), "val_mean", "pruned_at_seed",
        "pruned_at_epoch", "reason",
    ]  # fmt: skip
    text = io.StringIO()
    writer = csv.DictWriter(text, head, lineterminator="\n")
    writer.writeheader()
    for t in trials:
        val = {f"val_seed_{s}": v for s, v in t.val.items()}
        mean = t.mean if t.state == "complete" else None
        row = {"trial": t.number, "state": t.state, **t.options, **val, "val_mean": mean}
        writer.writerow(row | {"pruned_at_seed": t.seed, "pruned_at_epoch": t.epoch, "reason": t.reason})
    return text.getvalue()


def overlay(tuning: Tuning, chosen: Trial) -> str:
    """The chosen setting as a method of its own, `<method>_tuned`, for `conf/method/`.

    Its options stand under the pair they were chosen for, since a pair's own values come before a method's.
    """
    name = tuning.method.name
    options = {k: tuning.method.values[k] for k in _fixed(tuning.overrides)} | chosen.options
    tree = {
        "defaults": [name, "_self_"],
        "name": f"{name}_tuned",
        "about": {"title": f"{tuning.method.about['title']} (tuned)"},
        "pairs": {tuning.pair: options},
    }
    return (
        f"# {name} on {tuning.pair}, chosen on a validation split of {tuning.plan.dataset.name}: {_budget_text(tuning)}"
        f"\n# To use it: copy this file to conf/method/{name}_tuned.yaml, and name {name}_tuned among the methods.\n"
        f"# Or without it: {' '.join(words(name, options))}\n"
        + yaml.safe_dump(tree, sort_keys=False, default_flow_style=None, width=120)
    )


def summary(tuning: Tuning, trials: Sequence[Trial], chosen: Trial, tests: Mapping[int, Sequence[float]]) -> str:
    """The result in Markdown. tests: test accuracy of each seed, by the trial's number."""
    name, default, data = tuning.method.name, trials[0], tuning.plan.dataset
    states = [t.state for t in trials]
    spent = sum(len(t.val) * tuning.epochs + (t.epoch or 0) * (t.seed not in t.val) for t in trials)
    whole = len(trials) * len(tuning.seeds) * tuning.epochs
    val = list(default.val.values()) if default.state == "complete" else None
    lines = [
        f"## Tuning of {name} on {tuning.pair} ({data.name}, {tuning.plan.config.profile})",
        "",
        f"Budget: {_budget_text(tuning)}.",
        f"Trials: {states.count('complete')} complete, {states.count('pruned')} pruned, {states.count('diverged')} "
        f"diverged; {spent:,} of {whole:,} epochs trained.",
        f"Chosen: trial {chosen.number}{', the default' if chosen is default else ''}.",
        "",
        "| Option | Searched | Default | Chosen |",
        "|---|---|---|---|",
    ]
    for key, distribution in tuning.space.items():
        both = f"{_value_text(default.options[key])} | {_value_text(chosen.options[key])}"
        lines.append(f"| {key} | {_range_text(distribution)} | {both} |")
    lines += [
        "",
        f"Validation accuracy at the last epoch, % ({len(data.val.labels):,} images). The choice was made by it, so "
        "the chosen setting's is higher than is to be expected elsewhere.",
        "",
        *_compared(tuning.seeds, val, list(chosen.val.values())),
        "",
        f"Test accuracy at the last epoch, % ({len(data.test.labels):,} images). It had no part in the choice.",
        "",
        *_compared(tuning.seeds, tests.get(default.number), tests[chosen.number]),
        "",
    ]
    if default.state != "complete":
        lines += [f"The default is without numbers: {default.state}, {default.reason}.", ""]
    lines += [f"The chosen setting as overrides: `{' '.join(words(name, chosen.options))}`", ""]
    return "\n".join(lines)


def _budget(overrides: Sequence[str]) -> tuple[dict[str, int], list[str]]:
    """The command's own keys with their defaults, and the other overrides."""
    budget = {key: default for key, (default, _) in BUDGET.items()}
    rest = []
    for override in overrides:
        key, value = override.split("=", 1)
        if key not in BUDGET:
            rest.append(override)
            continue
        least = BUDGET[key][1]
        if not value.isdecimal() or int(value) < least:
            raise UserError(f"{key} is {value!r}: give a whole number of at least {least}")
        budget[key] = int(value)
    return budget, rest


def _declared(method: MethodConfig, name: str, given: Any) -> BaseDistribution:
    """The distribution that a YAML declares for one option."""
    where, default = f"tune.{name} of {method.name}", method.values[name]
    kind = float if isinstance(default, float) else type(default)
    try:
        if isinstance(given, list) and given:
            distribution: BaseDistribution = CategoricalDistribution([kind(v) for v in given])
            held = default in distribution.choices
        elif (
            isinstance(given, dict) and {"low", "high"} <= set(given) <= {"low", "high", "log"} and kind in (int, float)
        ):
            ranged = FloatDistribution if kind is float else IntDistribution
            distribution = ranged(kind(given["low"]), kind(given["high"]), log=given.get("log", True))
            held = distribution.low <= default <= distribution.high
        else:
            allowed = "{low: …, high: …} or " if kind in (int, float) else ""
            raise UserError(f"{where} is {given}: give {allowed}a list of values, or null to leave it at its default")
    except (ValueError, TypeError) as e:
        raise UserError(f"{where}: {e}") from e
    for value in _ends(distribution):
        configs.changed(method, {name: value})  # raises where it is outside the option's own limits
    if not held:
        raise UserError(f"{where} is {given}: it must contain the default, {default}")
    return distribution


def _ends(distribution: BaseDistribution) -> Sequence[Any]:
    """The values of a choice, the ends of a range."""
    choices = isinstance(distribution, CategoricalDistribution)
    return distribution.choices if choices else (distribution.low, distribution.high)


def _run_missing(tuning: Tuning, study: optuna.Study, tracking: Tracking) -> None:
    """Run the trials that are missing. Raises Unfinished at the first that cannot be judged."""
    for t in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):  # of a process that was killed
        study.tell(t.number, state=TrialState.FAIL)
    done = finished(study)
    progress = Watched(max(0, tuning.trials - len(done)) * len(tuning.seeds))
    for number in range(len(done) + 1, tuning.trials + 1):
        # seeded anew, so that a proposal is the same whether or not the process is
        study.sampler = optuna.samplers.TPESampler(seed=seed_for("tuning", tuning.sampler_seed, number) % 2**32)
        if number == 1 and not study.get_trials(deepcopy=False, states=[TrialState.WAITING]):
            study.enqueue_trial(tuning.defaults())
        trial = study.ask(dict(tuning.space))
        options = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in trial.params.items()}
        cells = tuning.cells({} if number == 1 else options)
        trial.set_user_attr("options", tuning.defaults() if number == 1 else options)
        try:
            _run_trial(trial, cells, tracking, progress)
        except Unfinished:
            study.tell(trial, state=TrialState.FAIL)
            raise
        except Pruned as e:
            study.tell(trial, state=TrialState.PRUNED)
            print(f"trial {number}/{tuning.trials}: {e.state} after epoch {e.epoch}: {e.reason}", flush=True)
        else:
            val = trial.user_attrs["val"].values()
            study.tell(trial, statistics.fmean(val))
            print(f"trial {number}/{tuning.trials}: validation {statistics.fmean(val):.2f}", flush=True)


def _run_trial(trial: optuna.Trial, cells: Sequence[TrainingRun], tracking: Tracking, progress: Watched) -> None:
    """Train the cells, one a seed, reporting to the pruner: each epoch of the first, then the mean after each other.

    The trial's attributes say what was found. Raises Pruned, and Unfinished.
    """
    val: dict[str, float] = {}
    try:
        for cell in cells:
            epochs, seed = cell.config["recipe"]["epochs"], cell.config["seed"]
            result = _outcome(cell, tracking, progress, _watch(trial, epochs) if not val else None)
            val[str(seed)] = result["val_top1_last"]
            if len(val) > 1:
                trial.report(statistics.fmean(val.values()), epochs + len(val) - 1)
            if len(val) < len(cells) and trial.should_prune():
                raise Pruned("pruned", epochs, "below the median of the trials before")
    except Pruned as e:
        for key, value in {"seed": seed, "epoch": e.epoch, "reason": e.reason, "state": e.state}.items():
            trial.set_user_attr(key, value)
        raise
    finally:
        trial.set_user_attr("val", val)


def _watch(trial: optuna.Trial, epochs: int) -> Callable[[Mapping[str, Any]], None]:
    """What hands the validation accuracy of each epoch to the pruner, once, and raises Pruned by its word."""
    reported = 0

    def watch(line: Mapping[str, Any]) -> None:
        nonlocal reported
        if line["epoch"] <= reported:
            return
        reported = line["epoch"]
        trial.report(line["val_top1"], reported)
        if reported < epochs and trial.should_prune():  # at its end a run may as well be kept
            raise Pruned("pruned", reported, "below the median of the trials before")

    return watch


def _outcome(
    cell: TrainingRun, tracking: Tracking, progress: Progress, watch: Callable[[Mapping[str, Any]], None] | None = None
) -> dict[str, Any]:
    """The result of a cell, which is run, resumed or just read. Raises Pruned where it diverges, and Unfinished."""
    if isinstance(progress, Watched):
        progress.watch = watch or (lambda line: None)
    if watch is not None:
        for line in cell.folder.metrics():  # of an earlier run: judged as if it were trained now
            watch(line)
    outcome = Outcome(cell.name, "diverged", cell.folder.status_record.reason)
    if cell.folder.status != "diverged":
        outcome = execute(cell, tracking, progress)
    if outcome.status == "diverged":
        done = max((line["epoch"] for line in cell.folder.metrics()), default=0)
        raise Pruned("diverged", max(done, 0), outcome.reason)  # a first stage counts its epochs below 1
    if outcome.status != "done":
        raise Unfinished(outcome)
    return cell.folder.record.to_json()


def _cells_of(tuning: Tuning, trial: Trial) -> list[TrainingRun]:
    return tuning.cells({} if trial.number == 1 else trial.options)


def _read(number: int, trial: FrozenTrial) -> Trial:
    found = trial.user_attrs
    val = {int(seed): v for seed, v in found["val"].items()}
    return Trial(
        number, found.get("state", "complete"), found["options"], val, found.get("seed"), found.get("epoch"),
        found.get("reason", ""),
    )  # fmt: skip


def _fixed(overrides: Sequence[str]) -> list[str]:
    """The method's options that a command gives."""
    return [o.split("=", 1)[0].split(".", 1)[1] for o in overrides if not configs.is_shared(o)]


def _announcement(tuning: Tuning) -> str:
    lines = [f"tuning {tuning.method.name} on {tuning.pair}: {_budget_text(tuning)}"]
    for name, distribution in tuning.space.items():
        default = _value_text(tuning.method.values[name])
        lines.append(f"  {tuning.method.name}.{name}: {_range_text(distribution)}, default {default}")
    return "\n".join(lines)


def _budget_text(tuning: Tuning) -> str:
    seeds = f"{len(tuning.seeds)} seed{'s' if len(tuning.seeds) > 1 else ''}"
    return f"{tuning.trials} trials of {seeds} and {tuning.epochs} epochs"


def _range_text(distribution: BaseDistribution) -> str:
    if isinstance(distribution, CategoricalDistribution):
        return ", ".join(map(str, distribution.choices))
    return f"{distribution.low:g} to {distribution.high:g}{' (log)' if distribution.log else ''}"


def _value_text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _compared(seeds: Sequence[int], default: Sequence[float] | None, chosen: Sequence[float]) -> list[str]:
    """A table of both by seed, with the mean paired difference and its 95 % confidence interval (Student's t)."""
    lines = ["| Seed | Default | Chosen | Difference [95 % interval] |", "|---|---|---|---|"]
    if default is None:
        return lines + [f"| {s} | – | {c:.2f} | – |" for s, c in zip(seeds, chosen, strict=True)]
    differences = [c - d for c, d in zip(chosen, default, strict=True)]
    rows = zip(seeds, default, chosen, differences, strict=True)
    lines += [f"| {s} | {d:.2f} | {c:.2f} | {x:+.2f} |" for s, d, c, x in rows]
    interval = mean_interval(differences)
    bounds = f"(n = {len(seeds)}: no interval)"
    if not math.isnan(interval.low):
        bounds = f"[{interval.low:+.2f}, {interval.high:+.2f}]"
    note = f"{interval.mean:+.2f} {bounds}"
    return [*lines, f"| mean | {statistics.fmean(default):.2f} | {statistics.fmean(chosen):.2f} | {note} |"]
