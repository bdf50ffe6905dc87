"""`bench`: train the missing runs of a grid, then make tables and plots."""

import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmark.config.compose import load_config
from benchmark.config.schema import Config
from benchmark.grid import plan as grid
from benchmark.grid.executors import Processes
from benchmark.grid.plan import Plan
from benchmark.grid.run import Outcome
from benchmark.runs.record import RunStatus
from benchmark.runs.tracking import Tracking


def run(words: Sequence[str]) -> int:
    """Plan, train, make tables and plots; return the exit status: 1 where runs did not finish."""
    config = load_config(words)
    plan = grid.make_plan(config, words)
    tracking = Tracking(config.tracker, plan.settings.runs)
    print(plan.text(), flush=True)
    outcomes = train(plan, tracking)
    reported = _report(plan, tracking, words, trained=bool(outcomes))
    for outcome in outcomes:
        if outcome.status == RunStatus.SKIPPED:
            print(f"n/a: {outcome.name}: {outcome.reason}", file=sys.stderr)
    status = report_unfinished(o for o in outcomes if o.status != RunStatus.SKIPPED)
    if config.profile == "quick":
        print(f"The paper's protocol: make bench PAIR={','.join(config.pair)} PROFILE=paper")
    return status if reported else 1


def train(plan: Plan, tracking: Tracking) -> list[Outcome]:
    """Train the missing runs, in this process or in `jobs` processes; return how they ended."""
    if plan.config.jobs == 1:
        return grid.run_plan(plan, tracking)
    with Processes(plan.config.jobs) as executor:
        return grid.run_plan(plan, tracking, executor)


def report_unfinished(outcomes: Iterable[Outcome]) -> int:
    """Name the runs that did not finish on standard error; return the exit status."""
    unfinished = [o for o in outcomes if o.status != RunStatus.DONE]
    for o in unfinished:
        print(f"not finished: {o}", file=sys.stderr)
    return 1 if unfinished else 0


def run_analysis(arguments: Sequence[str]) -> int:
    """Run `python -m analysis` as a process, so that training never depends on plotting code; return its status."""
    sys.stdout.flush()
    return subprocess.run([sys.executable, "-m", "analysis", *arguments], check=False).returncode


def _report(plan: Plan, tracking: Tracking, words: Sequence[str], *, trained: bool) -> bool:
    """Make the tables and plots of the runs that there are; return False where that failed."""
    config, stem = plan.config, f"{plan.dataset.name}-{plan.config.profile}"
    started = [r for n in plan.teachers if plan.teachers[n].folder.done for r in plan.students(n) if r.folder.status]
    if not any(r.folder.done for r in started):
        return True
    plots = trained or not any(Path(config.reports).glob(f"plots/{stem}-*"))
    succeeded = (
        run_analysis(_selection(config, [r.pair for r in started], [r.method for r in started], plots=plots)) == 0
    )
    if trained:
        files = sorted(p for p in Path(config.reports).glob("*/*") if p.stem.startswith(stem))
        tracking.publish(files, f"report {stem}", [plan.dataset.name, config.profile], {"overrides": list(words)})
    return succeeded


def _selection(config: Config, pairs: Sequence[str], methods: Sequence[str], *, plots: bool) -> list[str]:
    """Return the arguments of `python -m analysis` that select the runs of a command."""
    # runs on a part of the training set have tables of their own
    profile = f"{config.profile}+validation" if config.dataset.validation else config.profile
    return [
        *(["table", "plots"] if plots else ["table"]), f"runs={config.runs}", f"reports={config.reports}",
        f"dataset={config.dataset.name}", f"profile={profile}", f"pair={','.join(dict.fromkeys(pairs))}",
        f"method={','.join(dict.fromkeys(methods))}",
    ]  # fmt: skip
