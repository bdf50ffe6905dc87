"""`plan`: print what `bench` would do, and how long it would take. Nothing is trained or downloaded."""

from collections.abc import Sequence
from pathlib import Path

from benchmark.config.command_options import load_options
from benchmark.config.compose import load_config
from benchmark.config.references import describe_additions, with_references
from benchmark.config.schema import Config, PlanOptions
from benchmark.data import outline
from benchmark.data.datasets import Dataset
from benchmark.errors import UserError
from benchmark.grid import estimate, placement, summary
from benchmark.grid import plan as grid
from benchmark.grid.identity import dataset_of_earlier_run
from benchmark.grid.precision import Measure
from methods.options import dotted_names


def run(words: Sequence[str]) -> int:
    """Print the plan; return the exit status."""
    options, overrides = load_options("plan", PlanOptions, words)
    config = load_config(overrides, dotted_names(PlanOptions), references=True)
    if options.probe and config.executor.name != "local":
        raise UserError("probe=true times steps on this machine, the runs would be on another: leave out executor=")
    if options.probe and config.distributed:
        raise UserError("probe=true times the steps of one process: leave out distributed=true")
    measure, outline_of_data = _measure_if_asked(options), _outline(config, grid.teacher_train_size(config, overrides))
    plan = grid.make_plan(with_references(config), overrides, outline_of_data, measure=measure)
    print(describe_additions(config) + plan.text(), flush=True)
    times = estimate.of_finished_runs(plan).or_else(estimate.of_speed(plan))
    if options.probe:
        from benchmark.commands.probe import probe  # builds networks and trainers, which a plan does not need

        times = times.or_else(probe(plan, overrides, times))
    summaries = summary.summarize(plan, times)
    print("\n" + summary.text(plan, summaries, times, listed=options.list))
    if placement_text := placement.text(plan, [run for of_pair in summaries for run in of_pair.to_train]):
        print("\n" + placement_text)
    return 0


def _measure_if_asked(options: PlanOptions) -> Measure | None:
    """Return the measurement that decides `precision=auto`; None for a plan that times nothing."""
    if not options.probe:
        return None
    from benchmark.commands.bf16_speedup import bf16_speedup  # builds trainers, as the probe does

    return bf16_speedup


def _outline(config: Config, teacher_size: str | None) -> Dataset | None:
    """Return the data set without its images; None where they must be read: data of the user's own, a checkpoint that
    is imported and tested, or images that are here while no earlier run says what their hash is."""
    if config.dataset.source not in outline.KNOWN_SOURCES or config.teacher.imported:
        return None
    if earlier := dataset_of_earlier_run(config.dataset, Path(config.runs)):
        return outline.outline(earlier.config, earlier.fingerprint, teacher_size, earlier.teacher_fingerprints)
    present = outline.is_present(config.dataset, Path(config.data))
    return None if present else outline.outline(config.dataset, "", teacher_size)
