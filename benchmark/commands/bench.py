"""`bench`: train the missing runs of a grid, then make tables and plots."""

import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmark.commands.bf16_speedup import bf16_speedup
from benchmark.config.compose import load_config
from benchmark.config.overrides import key_of
from benchmark.config.references import describe_additions, with_references
from benchmark.config.schema import Config
from benchmark.grid import execution
from benchmark.grid import plan as grid
from benchmark.grid.executor_choice import open_executor
from benchmark.grid.plan import Plan
from benchmark.grid.queued import run_queued_plan
from benchmark.grid.slurm import SlurmQueue
from benchmark.grid.training_run import Outcome, TrainingRun
from benchmark.runs.folder import SELECTIONS, read_json
from benchmark.runs.record import RunStatus
from benchmark.runs.tracking import Tracking

# keys that change neither a run's identity, but for its seed, nor therefore what a selection of runs is
NOT_IN_IDENTITIES = (
    "seeds", "jobs", "executor", "threads", "device", "compile", "cuda_graph", "runs", "reports", "selection", "data",
    "tracker", "teacher.cache_gb", "teacher.cache_dir", "evaluate_every",
)  # fmt: skip
PROCESSES = ("distributed", "processes")  # nor these, unless batch norm has the statistics of each process's share


def run(words: Sequence[str]) -> int:
    """Plan, train, make tables and plots; return the exit status: 1 where runs did not finish."""
    config = load_config(words, references=True)
    plan = grid.make_plan(with_references(config), words, measure=bf16_speedup)
    tracking = Tracking(config.tracker, plan.settings.runs)
    print(describe_additions(config) + plan.text(), flush=True)
    outcomes = train(plan, tracking)
    selection = config.selection or _selection_name(config)
    reported = _report(plan, tracking, words, selection, trained=bool(outcomes))
    for outcome in outcomes:
        if outcome.status == RunStatus.SKIPPED:
            print(f"n/a: {outcome.name}: {outcome.reason}", file=sys.stderr)
    status = report_unfinished(o for o in outcomes if o.status != RunStatus.SKIPPED)
    if config.profile == "quick" and not _sets_dataset(words):
        choices = [w for w in words if key_of(w) in ("pair", "methods", "seeds", "references")]
        print(f"The paper's protocol: {shlex.join(['kd-benchmark', 'bench', *choices, 'profile=paper'])}")
    return status if reported else 1


def train(plan: Plan, tracking: Tracking) -> list[Outcome]:
    """Train the missing runs by the configured executor; return how they ended."""
    if plan.config.executor.name == "slurm":
        return run_queued_plan(plan, tracking, SlurmQueue(plan.config.executor, plan.settings.runs))
    with open_executor(plan) as executor:
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


def _report(plan: Plan, tracking: Tracking, words: Sequence[str], selection: str, *, trained: bool) -> bool:
    """Make tables and plots of this command's runs; return False where that failed. selection: their files' name."""
    config = plan.config
    trained_teachers = [network for network, teacher in plan.teachers.items() if teacher.folder.done]
    runs = {(t, s): [r for r in plan.students(t) if r.network == s] for t, s in plan.pairs if t in trained_teachers}
    started = {pair: [r for r in of_pair if r.folder.status] for pair, of_pair in runs.items()}
    if not any(r.folder.done for of_pair in started.values() for r in of_pair):
        return True
    command = " ".join(["kd-benchmark bench", *(word for word in words if _is_in_identities(word, config))])
    plots = trained or not any(path.suffix == ".png" for path in _recorded_files(config, command))
    succeeded = run_analysis(_arguments(config, started, command, selection, plots=plots)) == 0
    if trained:
        tags = [plan.dataset.name, config.profile]
        tracking.publish(_recorded_files(config, command), f"report {'-'.join(tags)}", tags, {"overrides": list(words)})
    return succeeded


def _recorded_files(config: Config, command: str) -> list[Path]:
    """Return the files of tables and plots that the last analysis of this command wrote; none where there was none."""
    reports = Path(config.reports)
    for path in sorted((reports / SELECTIONS).glob("*.json")):
        record = read_json(path) or {}
        entries = [entry for entry in record.get("files", {}).values() if entry.get("command") == command]
        if entries and record.get("runs_folder") == config.runs:
            return [reports / file for entry in entries for file in entry.get("files", [])]
    return []


def _is_in_identities(word: str, config: Config) -> bool:
    """Return whether a word of the command line can change a run's identity, but for its seed."""
    processes = PROCESSES if config.batch_norm_statistics == "global" else ()
    return not {key_of(word), key_of(word).split(".")[0]} & {*NOT_IN_IDENTITIES, *processes}


def _sets_dataset(words: Iterable[str]) -> bool:
    """Return whether a command line chooses a data set or changes one."""
    return any(key_of(word).split(".")[0] == "dataset" for word in words)


def _selection_name(config: Config) -> str:
    """Return the name that the files of a command's runs carry: its pairs, and its methods where they are not the
    default ones."""
    methods = [] if config.methods == load_config([]).methods else config.methods
    return "-".join(filter(None, ("+".join(config.pair), "+".join(methods))))


def _arguments(
    config: Config,
    started: Mapping[tuple[str, str], Sequence[TrainingRun]],
    command: str,
    selection: str,
    *,
    plots: bool,
) -> list[str]:
    """Return the arguments of `python -m analysis` that select the runs of a command. started: runs by pair."""
    runs = [run for of_pair in started.values() for run in of_pair]
    return [
        *(["table", "plots"] if plots else ["table"]), f"runs={config.runs}", f"reports={config.reports}",
        f"pair={','.join('-'.join(pair) for pair, of_pair in started.items() if of_pair)}",
        f"method={','.join(dict.fromkeys(run.method for run in runs))}",
        f"identity={','.join(dict.fromkeys(run.folder.path.parent.name for run in runs))}",
        f"selection={selection}", f"command={command}",
    ]  # fmt: skip
