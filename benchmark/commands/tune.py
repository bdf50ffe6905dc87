"""`tune`: choose the weights of one method on the validation split, with the same budget for every method.

The budget is a number of trials, each of the same seeds and epochs. The runs of a trial are ordinary training runs in
the ordinary run folders, shared with `bench` where they are the same. The first trial is the published default, so that
the chosen setting is never worse on the split it was chosen by. The test set plays no part in the choice; it is read
when the choice is made, for the default and the chosen setting. See `tuning_study`, `tuning_worker`, `tuning_trial` and
`tuning_space`.
"""

import dataclasses
import sys
from collections.abc import Mapping, Sequence

from optuna.distributions import BaseDistribution, FloatDistribution

from benchmark.commands import tuning_report
from benchmark.commands.bench import report_unfinished, train
from benchmark.commands.bf16_speedup import bf16_speedup
from benchmark.commands.tuning_space import extreme_values, search_space
from benchmark.commands.tuning_study import Trial, Tuning
from benchmark.commands.tuning_trial import Place, Pruned, Unfinished, WatchedProgress, finish_run
from benchmark.commands.tuning_worker import at_once, run_missing_trials
from benchmark.commands.validation import hold_out_validation
from benchmark.config.command_options import load_options
from benchmark.config.compose import change_options, load_config
from benchmark.config.schema import Config, TuneOptions
from benchmark.errors import UserError
from benchmark.grid import plan as grid
from benchmark.grid.plan import Plan
from benchmark.runs import folder
from benchmark.runs.tracking import Tracking
from methods.contract import UnsupportedPair
from methods.options import dotted_names


def run(words: Sequence[str]) -> int:
    """Run the missing trials and write the reports; return the exit status. Raises UserError for bad input."""
    tuning = plan_tuning(words)
    tracking = Tracking(tuning.plan.config.tracker, tuning.plan.settings.runs)
    print(tuning_report.announcement(tuning, at_once(tuning)), flush=True)
    teacher_plan = dataclasses.replace(tuning.plan, config=dataclasses.replace(tuning.plan.config, seeds=[]))
    if status := report_unfinished(train(teacher_plan, tracking)):
        return status
    if failures := run_missing_trials(tuning, tracking):
        return report_unfinished(failures)
    trials = tuning.finished_trials(tuning.study())
    complete = [t for t in trials if t.state == "complete"]
    if not complete:
        print(f"no trial was complete: {trials[-1].reason}", file=sys.stderr)
        return 1
    chosen = max(complete, key=lambda t: t.mean)  # the first of equals
    try:
        tests = {t.number: _test_accuracies(tuning, t, tracking) for t in _compared_trials(trials[0], chosen)}
    except (Unfinished, Pruned) as e:
        print(f"not finished: {e}", file=sys.stderr)
        return 1
    _write_reports(tuning, trials, chosen, tests, tracking, words)
    return 0


def plan_tuning(words: Sequence[str]) -> Tuning:
    """Check everything and plan, without training. Says where it holds out a validation split by itself."""
    options, overrides = load_options("tune", TuneOptions, words)
    config = load_config(overrides, dotted_names(TuneOptions))
    if len(config.methods) > 1:
        raise UserError("tune takes one method: give methods=clkd, or METHOD=clkd to make")
    if len(config.pair) > 1:
        raise UserError(f"tune takes one pair, not {', '.join(config.pair)}: weights are chosen for a pair")
    if config.distributed:
        raise UserError("tune trains a run in this process, since pruning watches it: leave out distributed=true")
    overrides = hold_out_validation(config, overrides)
    plan = grid.make_plan(config, overrides, measure=bf16_speedup)
    method = next(iter(plan.methods.values()))
    fixed = tuning_report.fixed_options(overrides)
    space = search_space(method, fixed)
    if not space:
        raise UserError(f"{method.name} has no option to tune" + (" but those given" if fixed else ""))
    _check_space(space, config, plan)
    return Tuning(overrides, plan, options.trials, options.sampler_seed, space)


def _check_space(space: Mapping[str, BaseDistribution], config: Config, plan: Plan) -> None:
    """Raise UserError for a choice or a whole number that does not suit the networks."""
    method = next(iter(plan.methods.values()))
    for name, distribution in space.items():
        if isinstance(distribution, FloatDistribution):
            continue
        for value in extreme_values(distribution):
            changed = change_options(method, {name: value})
            try:
                reason = grid.incompatibility(changed, config, plan.dataset, *plan.pairs[0])
            except UnsupportedPair as e:
                reason = str(e)
            if reason:
                raise UserError(f"tune.{name}: {reason}")


def _compared_trials(default: Trial, chosen: Trial) -> list[Trial]:
    """Return the trials whose test accuracy is reported: the default, where it is complete, and the chosen one."""
    return [t for t in {t.number: t for t in (default, chosen)}.values() if t.state == "complete"]


def _test_accuracies(tuning: Tuning, trial: Trial, tracking: Tracking) -> list[float]:
    place = Place(tracking, WatchedProgress(1))
    records = [finish_run(run, place) for run in tuning.runs_of(trial)]
    return [record.top1_last for record in records if record.top1_last is not None]


def _write_reports(
    tuning: Tuning, trials: Sequence[Trial], chosen: Trial, tests: Mapping[int, Sequence[float]], tracking: Tracking,
    words: Sequence[str],
) -> None:  # fmt: skip
    reports = {
        ".md": tuning_report.summary(tuning, trials, chosen, tests),
        ".csv": tuning_report.history(tuning, trials),
        ".yaml": tuning_report.overlay(tuning, chosen),
    }
    for suffix, text in reports.items():
        folder.write_text(tuning.report_path(suffix), text)
    print(f"\n{reports['.md']}")
    for suffix in reports:
        print(f"written: {tuning.report_path(suffix)}", file=sys.stderr)
    tags = [tuning.plan.dataset.name, tuning.plan.config.profile]
    files = [tuning.report_path(".csv")]
    tracking.publish(files, f"tuning {tuning.stem}", tags, {"overrides": list(words)})
