"""`bench`: train the missing runs of a grid, then make tables and plots."""

import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmark.config.compose import load_config
from benchmark.config.overrides import key_of
from benchmark.config.schema import Config
from benchmark.grid import execution
from benchmark.grid import plan as grid
from benchmark.grid.executors import Processes
from benchmark.grid.plan import Plan
from benchmark.grid.training_run import Outcome, TrainingRun
from benchmark.runs.folder import file_name
from benchmark.runs.record import RunStatus
from benchmark.runs.tracking import Tracking

# keys that change neither which runs there are, but for their seeds, nor the numbers
WITHOUT_EFFECT_ON_RUNS = (
    "seeds", "jobs", "threads", "device", "compile", "cuda_graph", "runs", "reports", "selection", "data", "tracker",
    "tracker.mode", "teacher.cache_gb",
)  # fmt: skip


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
    if config.profile == "quick" and not overridden_dataset(words):
        choices = [w for w in words if key_of(w) in ("pair", "methods", "seeds")]
        print(" ".join(["The paper's protocol: kd-benchmark bench", *choices, "profile=paper"]))
    return status if reported else 1


def overridden_dataset(words: Iterable[str]) -> bool:
    """Return whether a command line chooses a data set of its own."""
    return any(key_of(word).split(".")[0] == "dataset" for word in words)


def train(plan: Plan, tracking: Tracking) -> list[Outcome]:
    """Train the missing runs, in this process or in `jobs` processes; return how they ended."""
    if plan.config.jobs == 1:
        return execution.run_plan(plan, tracking)
    with Processes(plan.config.jobs) as executor:
        return execution.run_plan(plan, tracking, executor)


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
    """Make the tables and plots of this command's runs; return False where that failed."""
    config = plan.config
    trained_teachers = [network for network, teacher in plan.teachers.items() if teacher.folder.done]
    runs = {(t, s): [r for r in plan.students(t) if r.network == s] for t, s in plan.pairs if t in trained_teachers}
    started = {pair: [r for r in of_pair if r.folder.status] for pair, of_pair in runs.items()}
    if not any(r.folder.done for of_pair in started.values() for r in of_pair):
        return True
    name = config.selection or _selection_name(config)
    plots = trained or not any(Path(config.reports).glob(f"plots/*-{file_name(name)}-*"))
    succeeded = run_analysis(_arguments(config, started, name, words, plots=plots)) == 0
    if trained:
        stem = f"{plan.dataset.name}-{config.profile}"
        files = sorted(p for p in Path(config.reports).glob("*/*") if p.stem.startswith(f"{stem}-{file_name(name)}"))
        tracking.publish(files, f"report {stem}", [plan.dataset.name, config.profile], {"overrides": list(words)})
    return succeeded


def _selection_name(config: Config) -> str:
    """Return the name that the files of a command's runs carry: its pairs, and its methods where they are not the
    default ones."""
    methods = [] if config.methods == load_config([]).methods else config.methods
    return "-".join(filter(None, ("+".join(config.pair), "+".join(methods))))


def _arguments(
    config: Config, started: Mapping[tuple[str, str], Sequence[TrainingRun]], name: str, words: Sequence[str], *,
    plots: bool,
) -> list[str]:  # fmt: skip
    """Return the arguments of `python -m analysis` that select the runs of a command. started: runs by pair."""
    runs = [run for of_pair in started.values() for run in of_pair]
    what = [word for word in words if key_of(word) not in WITHOUT_EFFECT_ON_RUNS]
    return [
        *(["table", "plots"] if plots else ["table"]), f"runs={config.runs}", f"reports={config.reports}",
        f"pair={','.join('-'.join(pair) for pair, of_pair in started.items() if of_pair)}",
        f"method={','.join(dict.fromkeys(run.method for run in runs))}",
        f"identity={','.join(dict.fromkeys(run.folder.path.parent.name for run in runs))}",
        f"selection={name}", f"command={' '.join(['kd-benchmark bench', *what])}",
    ]  # fmt: skip
