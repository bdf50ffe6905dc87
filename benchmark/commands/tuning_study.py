"""One tuning: its plan, its study on disk, and the trials that are finished.

A trial is one setting of the method's options, trained with every seed. The first trial is the published default; the
others are proposed by Optuna's TPE sampler. The objective is `val_top1` at the last epoch, mean over the seeds.

    <runs>/tuning/<dataset>-<profile>-<pair>-<method>-<id>.journal  the study, Optuna's journal
    <runs>/tuning/<dataset>-<profile>-<pair>-<method>-<id>/         locks: of the journal, of each trial in training

The id is a hash of the default's identity, the seeds, the space and the sampler's seed: the same command works on the
same study, as do several of them at once, on this host and on others. Which trials are in training, and which were
given back, is in `tuning_worker`.
"""

import dataclasses
import functools
import os
import statistics
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock  # what a lock has to be, which has no public name
from optuna.trial import FrozenTrial, TrialState

from benchmark.config.compose import change_options
from benchmark.config.schema import MethodConfig
from benchmark.errors import UserError
from benchmark.grid.plan import Plan
from benchmark.grid.training_run import TrainingRun
from benchmark.runs import folder, locks
from benchmark.runs.locks import HeldLock

COMPLETE_BEFORE_PRUNING = 5  # trials


@dataclass(frozen=True)
class Trial:
    """A finished trial."""

    number: int  # its place in the budget, from 1, the default
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

    @property
    def locks(self) -> Path:
        """Folder of the locks that processes at work on the study hold."""
        return self.journal.with_suffix("")

    def locked(self) -> AbstractContextManager[HeldLock]:
        """Hold the study, after waiting for others: while a trial is claimed or given back."""
        return locks.lock(self.journal.with_suffix(".lock"), wait=True)

    def without_images(self) -> "Tuning":
        """Return this tuning with the sizes of its data set alone, which is all that a process needs to plan runs."""
        return dataclasses.replace(
            self, plan=dataclasses.replace(self.plan, dataset=self.plan.dataset.without_images())
        )

    def study(self) -> optuna.Study:
        """Create or load the study. Raises UserError where its journal is damaged."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.locks.mkdir(parents=True, exist_ok=True)
        try:
            if self.journal.exists():
                self.journal.read_bytes().decode()  # raises ValueError: only a text is taken for a journal, and mended
            pruner = optuna.pruners.MedianPruner(
                n_startup_trials=COMPLETE_BEFORE_PRUNING, n_warmup_steps=self.epochs // 2
            )
            backend = JournalFileBackend(str(self.journal), JournalLock(self.journal, self.locks / "journal.lock"))
            return optuna.create_study(
                storage=JournalStorage(backend), study_name=self.stem, direction="maximize", load_if_exists=True,
                pruner=pruner,
            )  # fmt: skip
        except (ValueError, KeyError) as e:
            raise UserError(f"{self.journal} is damaged ({e}): move it away to start this tuning again") from e

    def finished_trials(self, study: optuna.Study) -> list[Trial]:
        """Return the finished trials of the budget in the order of their numbers, each number once."""
        trials = {trial.number: trial for trial in reversed(finished_trials(study))}
        return [trials[number] for number in sorted(trials) if number <= self.trials]


class JournalLock(BaseJournalFileLock):
    """The lock under which a journal is written, among all hosts that share it (`benchmark.runs.locks`).

    Optuna's own locks are kept by a killed process for half a minute, and two processes that break one at the same time
    can both hold it. Whoever takes this lock first removes an incomplete last line, left by a process that was killed
    or by a full disk: the next line would otherwise continue it.
    """

    def __init__(self, journal: Path, path: Path) -> None:
        self._journal, self._path = journal, path
        self._held: AbstractContextManager[HeldLock] | None = None

    def acquire(self) -> bool:
        """Wait for the lock and take it."""
        held = locks.lock(self._path, wait=True)
        held.__enter__()
        try:
            self._remove_incomplete_line()
        except BaseException:
            held.__exit__(None, None, None)
            raise
        self._held = held
        return True

    def release(self) -> None:
        """Release the lock."""
        held, self._held = self._held, None
        if held is not None:
            held.__exit__(None, None, None)

    def _remove_incomplete_line(self) -> None:
        with open(self._journal, "r+b") as f:
            size = f.seek(0, os.SEEK_END)
            start = max(0, size - 1)
            f.seek(start)
            if size == 0 or f.read() == b"\n":
                return
            f.seek(0)
            f.truncate(f.read().rfind(b"\n") + 1)


def finished_trials(study: optuna.Study) -> list[Trial]:
    """Return the finished trials of a study in the order in which they were begun; killed attempts are left out.

    Studies of earlier versions, whose trials were trained one after another, number them by this order alone.
    """
    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    return [_trial(order, trial) for order, trial in enumerate(finished, 1)]


def _trial(order: int, frozen: FrozenTrial) -> Trial:
    saved = frozen.user_attrs
    number, val = saved.get("number", order), {int(seed): value for seed, value in saved["val"].items()}
    state = saved.get("state", "complete")
    return Trial(number, state, saved["options"], val, saved.get("seed"), saved.get("epoch"), saved.get("reason", ""))
