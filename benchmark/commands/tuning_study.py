"""One tuning: its plan, its study on disk, and its trials.

A trial is one setting of the method's options, trained with every seed. The first trial is the published default; the
others are proposed by Optuna's TPE sampler. The objective is `val_top1` at the last epoch, mean over the seeds.

Pruning: the first seed is judged epoch by epoch, from half of its epochs on, and each further seed when it is done; a
trial below the median of the earlier ones (Optuna's MedianPruner, after five complete trials) is pruned. Its run keeps
the status "running" with a free lock, as an interrupted one: `bench` resumes it where it is asked for the same run. A
trial that diverges ends there too, with the reason.

The study is Optuna's journal, `<runs>/tuning/<dataset>-<profile>-<pair>-<method>-<id>.journal`; the id is a hash of the
default's identity, the seeds, the space and the sampler's seed. The same command runs only the missing trials. A killed
trial has the state FAIL in the journal and is repeated identically: each proposal depends on the sampler's seed, the
trial's number and the trials finished before it, not on what was killed or read from earlier runs.
"""

import dataclasses
import functools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from benchmark.config.compose import change_options
from benchmark.config.schema import MethodConfig
from benchmark.errors import UserError
from benchmark.grid.plan import Plan
from benchmark.grid.progress import Progress
from benchmark.grid.run import execute
from benchmark.grid.training_run import Outcome, TrainingRun
from benchmark.runs import folder
from benchmark.runs.record import RunRecord, RunStatus
from benchmark.runs.tracking import Tracking
from benchmark.training.seeding import seed_for

COMPLETE_BEFORE_PRUNING = 5  # trials
BELOW_MEDIAN = "below the median of the trials before"


class Pruned(BaseException):
    """Ends a trial early. Not an Exception: like Ctrl-C it leaves the run interrupted, not failed."""

    def __init__(self, state: str, epoch: int, reason: str) -> None:
        super().__init__(reason)
        self.state, self.epoch, self.reason = state, epoch, reason


class Unfinished(Exception):
    """A run neither finished nor diverged, so that its trial has no value."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(str(outcome))


class WatchedProgress(Progress):
    """Progress that passes the metrics of each epoch to `watch`, which may end the run by raising Pruned."""

    watch: Callable[[Mapping[str, Any]], None] | None = None

    def epoch(self, line: Mapping[str, Any]) -> None:
        """Report a finished epoch, then judge it."""
        super().epoch(line)
        if self.watch is not None:
            self.watch(line)


@dataclass(frozen=True)
class Trial:
    """A finished trial."""

    number: int  # from 1, the default
    state: str  # complete, pruned, diverged
    options: dict[str, Any]  # of the search space, as they were run
    val: dict[int, float]  # val_top1 at the last epoch of each seed that was trained to its end
    seed: int | None = None  # where it was pruned: the seed, and its finished epochs
    epoch: int | None = None
    reason: str = ""

    @property
    def mean(self) -> float:
        """The objective of a complete trial."""
        return statistics.fmean(self.val.values())


@dataclass(frozen=True)
class Tuning:
    """A planned tuning of one method on one pair. The teacher must be trained before `stem` is known."""

    overrides: Sequence[str]  # of the command, without its own keys
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
        """The pair, `<teacher>-<student>`."""
        return "-".join(self.plan.pairs[0])

    @property
    def seeds(self) -> list[int]:
        """The seeds of every trial."""
        return self.plan.config.seeds

    @property
    def epochs(self) -> int:
        """Epochs of every run."""
        return self.plan.config.recipe.epochs

    @functools.cached_property
    def stem(self) -> str:
        """Stem of the study's and the reports' file names; different tunings never share one."""
        space = {k: optuna.distributions.distribution_to_json(d) for k, d in self.space.items()}
        default = self.runs({})[0].identity
        hashed = {"default": default, "of": self.seeds, "space": space, "sampler": self.sampler_seed}
        names = (self.plan.dataset.name, self.plan.config.profile, folder.folder_name(self.pair), self.method.name)
        return f"{'-'.join(names)}-{folder.identity(hashed)}"

    @property
    def journal(self) -> Path:
        """Path of the study."""
        return self.plan.settings.runs / "tuning" / f"{self.stem}.journal"

    def report_path(self, suffix: str) -> Path:
        """Return the path of a report."""
        return Path(self.plan.config.reports) / "tuning" / f"{self.stem}{suffix}"

    def runs(self, options: Mapping[str, Any]) -> list[TrainingRun]:
        """Return the runs, one a seed, of the default with some options changed."""
        methods = {key: change_options(method, options) for key, method in self.plan.methods.items()}
        return dataclasses.replace(self.plan, methods=methods).students(self.plan.pairs[0][0])

    def runs_of(self, trial: Trial) -> list[TrainingRun]:
        """Return the runs of a finished trial."""
        return self.runs({} if trial.number == 1 else trial.options)

    def default_values(self) -> dict[str, Any]:
        """Return the default's values of the tuned options."""
        return {name: self.method.values[name] for name in self.space}

    def study(self) -> optuna.Study:
        """Create or load the study. Raises UserError where its journal is damaged."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            if self.journal.exists():  # an incomplete last line, after a full disk, would spoil those after it
                text = self.journal.read_bytes().decode()
                if not text.endswith("\n"):
                    folder.write_text(self.journal, text[: text.rfind("\n") + 1])
            pruner = optuna.pruners.MedianPruner(
                n_startup_trials=COMPLETE_BEFORE_PRUNING, n_warmup_steps=self.epochs // 2
            )
            storage = JournalStorage(JournalFileBackend(str(self.journal)))
            return optuna.create_study(
                storage=storage, study_name=self.stem, direction="maximize", load_if_exists=True, pruner=pruner
            )
        except (ValueError, KeyError) as e:
            raise UserError(f"{self.journal} is damaged ({e}): move it away to start this tuning again") from e


def finished_trials(study: optuna.Study) -> list[Trial]:
    """Return the finished trials of a study, numbered in their order from 1; killed attempts are left out."""
    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    return [_trial(number, trial) for number, trial in enumerate(finished, 1)]


def _trial(number: int, frozen: FrozenTrial) -> Trial:
    saved = frozen.user_attrs
    val = {int(seed): value for seed, value in saved["val"].items()}
    state = saved.get("state", "complete")
    return Trial(number, state, saved["options"], val, saved.get("seed"), saved.get("epoch"), saved.get("reason", ""))


def run_missing_trials(tuning: Tuning, study: optuna.Study, tracking: Tracking) -> None:
    """Run the missing trials. Raises Unfinished at the first that cannot be judged."""
    for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):  # of a process that was killed
        study.tell(trial.number, state=TrialState.FAIL)
    finished = len(finished_trials(study))
    progress = WatchedProgress(max(0, tuning.trials - finished) * len(tuning.seeds))
    for number in range(finished + 1, tuning.trials + 1):
        # a new sampler for each trial, so that a proposal is the same whether or not the process is
        study.sampler = optuna.samplers.TPESampler(seed=seed_for("tuning", tuning.sampler_seed, number) % 2**32)
        if number == 1 and not study.get_trials(deepcopy=False, states=[TrialState.WAITING]):
            study.enqueue_trial(tuning.default_values())
        trial = study.ask(dict(tuning.space))
        options = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in trial.params.items()}
        runs = tuning.runs({} if number == 1 else options)
        trial.set_user_attr("options", tuning.default_values() if number == 1 else options)
        try:
            val = _run_trial(trial, runs, tracking, progress)
        except Unfinished:
            study.tell(trial, state=TrialState.FAIL)
            raise
        except Pruned as e:
            study.tell(trial, state=TrialState.PRUNED)
            print(f"trial {number}/{tuning.trials}: {e.state} after epoch {e.epoch}: {e.reason}", flush=True)
        else:
            study.tell(trial, val)
            print(f"trial {number}/{tuning.trials}: validation {val:.2f}", flush=True)


def _run_trial(
    trial: optuna.Trial, runs: Sequence[TrainingRun], tracking: Tracking, progress: WatchedProgress
) -> float:
    """Train the runs, one a seed, and report to the pruner: each epoch of the first, the mean after each further one.

    Returns the mean validation accuracy, and stores results as attributes of the trial. Raises Pruned, and Unfinished.
    """
    val: dict[str, float] = {}
    seed = None
    try:
        for run in runs:
            epochs, seed = run.config["recipe"]["epochs"], run.config["seed"]
            record = finish_run(run, tracking, progress, None if val else _pruning_watch(trial, epochs))
            assert record.val_top1_last is not None  # the data set has a validation split
            val[str(seed)] = record.val_top1_last
            if len(val) > 1:
                trial.report(statistics.fmean(val.values()), epochs + len(val) - 1)
            if len(val) < len(runs) and trial.should_prune():
                raise Pruned("pruned", epochs, BELOW_MEDIAN)
    except Pruned as e:
        for key, value in {"seed": seed, "epoch": e.epoch, "reason": e.reason, "state": e.state}.items():
            trial.set_user_attr(key, value)
        raise
    finally:
        trial.set_user_attr("val", val)
    return statistics.fmean(val.values())


def _pruning_watch(trial: optuna.Trial, epochs: int) -> Callable[[Mapping[str, Any]], None]:
    """Return a callback that reports each evaluated epoch's accuracy once, and raises Pruned where the pruner says."""
    reported = 0

    def watch(line: Mapping[str, Any]) -> None:
        nonlocal reported
        if line["epoch"] <= reported or "val_top1" not in line:
            return
        reported = line["epoch"]
        trial.report(line["val_top1"], reported)
        if reported < epochs and trial.should_prune():  # a run that is complete anyway is kept
            raise Pruned("pruned", reported, BELOW_MEDIAN)

    return watch


def finish_run(
    run: TrainingRun, tracking: Tracking, progress: WatchedProgress,
    watch: Callable[[Mapping[str, Any]], None] | None = None,
) -> RunRecord:  # fmt: skip
    """Train, resume or read a run, and return its record. Raises Pruned where it diverges, and Unfinished."""
    progress.watch = watch
    if watch is not None:
        for line in run.folder.metrics():  # of an earlier process, judged as if they were trained now
            watch(line)
    outcome = Outcome(run.name, RunStatus.DIVERGED, run.folder.status_record.reason)
    if run.folder.status != RunStatus.DIVERGED:
        outcome = execute(run, tracking, progress)
    if outcome.status == RunStatus.DIVERGED:
        last_epoch = max((line["epoch"] for line in run.folder.metrics()), default=0)
        raise Pruned("diverged", max(last_epoch, 0), outcome.reason)  # initialization epochs are 0 or below
    if outcome.status != RunStatus.DONE:
        raise Unfinished(outcome)
    return run.folder.record
