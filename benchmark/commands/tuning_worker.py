"""Workers of a tuning: they train trials of one study until its budget is finished, in any number of places at once.

The budget is the numbers 1 to `trials`. A worker claims the lowest number that is neither finished nor in training:
it asks Optuna for a proposal, which the journal then holds as RUNNING with its number, and holds `trial-<number>.lock`
while it trains it. All of this is done under the study's lock, so that no number is trained twice at a time and none
counts twice, whichever processes, hosts and commands share the study.

A trial whose worker is interrupted or whose run fails is given back: its state is FAIL, and the number is free again.
So is a trial whose lock is free although it is RUNNING: its process has died. The next worker that claims the number
trains the same proposal, so that runs continue from their checkpoints.

A proposal depends on the sampler's seed, the number, and the trials that are finished or in training when it is made;
not on what was given back or read from earlier runs. With one worker these are the trials before it, always the same.
"""

import contextlib
import copy
import dataclasses
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from benchmark import networks
from benchmark.commands.tuning_study import Tuning
from benchmark.commands.tuning_trial import Place, Pruned, Unfinished, WatchedProgress, run_trial
from benchmark.grid.executor_choice import open_executor
from benchmark.grid.resources import runs_at_a_time
from benchmark.grid.slurm import SlurmQueue
from benchmark.grid.training_run import BUSY, Outcome
from benchmark.networks import custom
from benchmark.runs import folder, locks
from benchmark.runs.locks import HeldLock, RunBusy
from benchmark.runs.record import RunStatus
from benchmark.runs.tracking import Tracking
from benchmark.training.graphs import SINGLE_GRAPH, Capture
from benchmark.training.seeding import seed_for

POLL_S = 5.0  # seconds between two looks at trials that other commands train


# ---------------------------------------------------------------- the command


def run_missing_trials(tuning: Tuning, tracking: Tracking) -> list[Outcome]:
    """Train the missing trials, here or where the config says, until the budget is finished.

    Trials that another command trains are waited for. Returns the failures where the budget is not finished, else
    nothing.
    """
    study, rounds, announced = tuning.study(), 0, False
    give_back_dead_trials(tuning, study)
    while len(tuning.finished_trials(study)) < tuning.trials:
        free = free_numbers(tuning, study)
        outcomes: list[Outcome] = []
        if free:
            rounds += 1
            outcomes = _work(tuning, tracking, min(len(free), at_once(tuning)), rounds)
        elif not announced:
            print("the missing trials are in training by another process; waiting until they end", flush=True)
            announced = True
        failures = list({str(o): o for o in outcomes if o.status not in (RunStatus.DONE, BUSY)}.values())
        if failures and len(tuning.finished_trials(study)) < tuning.trials:
            return failures
        if not free or any(o.status == BUSY for o in outcomes):
            time.sleep(POLL_S)
        give_back_dead_trials(tuning, study)
    return []


def at_once(tuning: Tuning) -> int:
    """Return the largest number of trials that are in training at a time; on Ray fewer, where its cluster is small."""
    config = tuning.plan.config
    if config.executor.name == "local":
        return min(tuning.trials, runs_at_a_time(config, tuning.plan.settings.hardware))
    return min(tuning.trials, config.executor.array_parallelism or tuning.trials)


def _work(tuning: Tuning, tracking: Tracking, workers: int, rounds: int) -> list[Outcome]:
    """Have workers train all free trials, and wait for them. rounds: how often this command has started workers."""
    own_networks = networks.custom_identity(*tuning.plan.pairs[0])
    waits = tuning.plan.settings.hardware.side_by_side == 1
    config = tuning.plan.config
    if config.executor.name == "slurm":
        light = tuning.without_images()
        jobs = [TuningWorker(light, tracking, f"{rounds}-{i}", own_networks) for i in range(1, workers + 1)]
        queue = SlurmQueue(config.executor, tuning.plan.settings.runs)
        return list(queue.outcomes(dict(zip(queue.enqueue(jobs), jobs, strict=True))))
    with open_executor(tuning.plan) as executor:
        if executor is None:
            return [TuningWorker(tuning, tracking, str(rounds), alone=True)()]
        light = tuning.without_images()
        jobs = [TuningWorker(light, tracking, f"{rounds}-{i}", own_networks, waits) for i in range(1, workers + 1)]
        futures = [executor.submit(job, executor.capture) for job in jobs]
        outcomes = [_outcome(job, future) for job, future in zip(jobs, futures, strict=True)]
    if tracking.mode == "online" and any(o.tracking == "offline" for o in outcomes):
        tracking.mode = "offline"  # as no server could be reached
    return outcomes


def _outcome(job: "TuningWorker", future: Future[Any]) -> Outcome:
    """Wait for a worker; its outcome is a failure where its process died."""
    try:
        return future.result()
    except Exception as e:
        return Outcome(job.name, RunStatus.FAILED, f"{type(e).__name__}: {e}")


# ---------------------------------------------------------------- a worker


@dataclass(frozen=True)
class TuningWorker:
    """Trains trials until none is free: a picklable function for one place of an executor, or for a queue.

    place: names it among the workers of a command. own_networks: the user's own networks of the pair. waits: see
    `Place`. alone: it is the only one of its command, in the command's process.
    """

    tuning: Tuning
    tracking: Tracking
    place: str
    own_networks: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    waits: bool = True
    alone: bool = False

    @property
    def name(self) -> str:
        """Name of the worker in messages."""
        return f"worker {self.place} of tuning {self.tuning.method.name} on {self.tuning.pair}"

    @property
    def key(self) -> str:
        """Twelve hex digits that name the worker in a queue."""
        return folder.identity({"tuning": self.tuning.stem, "worker": self.place})

    def __call__(self, capture: Capture = SINGLE_GRAPH) -> Outcome:
        """Train free trials; return how that ended: DONE where none is free, else how a run failed."""
        custom.add_all(self.own_networks)
        tuning, study = self.tuning, self.tuning.study()
        progress = WatchedProgress(tuning.trials * len(tuning.seeds))
        progress.sequential = self.alone
        # a queue may pickle this object again in the middle of the work, which must therefore not change it
        tracking = self.tracking if self.alone else copy.deepcopy(self.tracking)
        outcome = None
        while outcome is None:
            with claimed(tuning, study) as claim:
                outcome = Outcome(self.name, RunStatus.DONE)
                if claim is not None:
                    outcome = _train(tuning, study, claim, Place(tracking, progress, capture, self.waits))
        return dataclasses.replace(outcome, tracking=tracking.mode)


@dataclass(frozen=True)
class Claim:
    """A trial that this process trains. held: its lock."""

    number: int
    trial: optuna.Trial
    held: HeldLock


def _train(tuning: Tuning, study: optuna.Study, claim: Claim, place: Place) -> Outcome | None:
    """Train a claimed trial and tell the study. Return the outcome of a run that did not finish; None where all did."""
    number, trial = claim.number, claim.trial
    place.progress.index = (number - 1) * len(tuning.seeds)
    runs = tuning.runs({} if number == 1 else trial.user_attrs["options"])
    head = f"trial {number}/{tuning.trials}"
    try:
        try:
            val = run_trial(trial, runs, place)
            claim.held.verify()
            study.tell(trial, val)
            print(f"{head}: validation {val:.2f}", flush=True)
        except Pruned as e:
            claim.held.verify()
            study.tell(trial, state=TrialState.PRUNED)
            print(f"{head}: {e.state} after epoch {e.epoch}: {e.reason}", flush=True)
    except (RunBusy, UpdateFinishedTrialError) as e:
        print(f"{head}: another process has taken it over ({e})", flush=True)
    except Unfinished as e:
        give_back(study, trial)
        return e.outcome
    except BaseException:  # an interruption by the user, or a mistake in a user's own method
        give_back(study, trial)
        raise
    return None


# ---------------------------------------------------------------- claims


def free_numbers(tuning: Tuning, study: optuna.Study) -> list[int]:
    """Return the numbers of the budget that are neither finished nor in training."""
    finished = {trial.number for trial in tuning.finished_trials(study)}
    in_training = {trial.user_attrs.get("number") for trial in _trials_in(study, TrialState.RUNNING)}
    return [number for number in range(1, tuning.trials + 1) if number not in finished | in_training]


def give_back_dead_trials(tuning: Tuning, study: optuna.Study) -> None:
    """Give back the trials in training whose process has died.

    A process of this host holds its lock exactly. One of another host is watched for as long as it may be silent, all
    of them at the same time.
    """
    running = _trials_in(study, TrialState.RUNNING)
    if not running:
        return
    with ThreadPoolExecutor(len(running)) as threads:
        list(threads.map(lambda trial: _give_back_if_dead(tuning, study, trial), running))


def _give_back_if_dead(tuning: Tuning, study: optuna.Study, trial: FrozenTrial) -> None:
    number = trial.user_attrs.get("number")
    with contextlib.suppress(RunBusy), contextlib.ExitStack() as stack:
        if number is not None:
            stack.enter_context(locks.lock(_trial_lock(tuning, number)))
        # one without a number was never claimed: its process died before, or is of a version that holds this lock
        stack.enter_context(tuning.locked())
        give_back(study, trial.number)


def give_back(study: optuna.Study, trial: optuna.Trial | int) -> None:
    """Free a trial's number, unless the trial is finished or has been given back already."""
    with contextlib.suppress(UpdateFinishedTrialError):
        study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)


@contextlib.contextmanager
def claimed(tuning: Tuning, study: optuna.Study) -> Iterator[Claim | None]:
    """Claim the lowest free number and hold its lock; None where no number is free."""
    with contextlib.ExitStack() as stack:
        claim = None
        with tuning.locked():
            for number in free_numbers(tuning, study):
                with contextlib.suppress(RunBusy):  # its last worker has given it back and is about to end
                    held = stack.enter_context(locks.lock(_trial_lock(tuning, number)))
                    claim = Claim(number, _ask(tuning, study, number), held)
                    break
        yield claim


def _ask(tuning: Tuning, study: optuna.Study, number: int) -> optuna.Trial:
    """Begin a trial: the default, the proposal of an attempt that was given back, or a new proposal."""
    for _ in _trials_in(study, TrialState.WAITING):  # of a process that died at the same place
        study.tell(study.ask(), state=TrialState.FAIL)
    # a new sampler for each trial, so that a proposal is the same whether or not the process is
    study.sampler = optuna.samplers.TPESampler(seed=seed_for("tuning", tuning.sampler_seed, number) % 2**32)
    if params := tuning.default_values() if number == 1 else _earlier_proposal(tuning, study, number):
        study.enqueue_trial(params, user_attrs={"number": number})
    trial = study.ask(dict(tuning.space))
    trial.set_user_attr("number", number)
    options = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in trial.params.items()}
    trial.set_user_attr("options", tuning.default_values() if number == 1 else options)
    return trial


def _earlier_proposal(tuning: Tuning, study: optuna.Study, number: int) -> dict[str, Any] | None:
    """Return the proposal of the last attempt at a number; None where there was none, or it was not complete."""
    attempts = [t for t in _trials_in(study, TrialState.FAIL) if t.user_attrs.get("number") == number]
    proposals = [t.params for t in attempts if t.params.keys() == set(tuning.space)]
    return proposals[-1] if proposals else None


def _trials_in(study: optuna.Study, state: TrialState) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=[state])


def _trial_lock(tuning: Tuning, number: int) -> Path:
    return tuning.locks / f"trial-{number}.lock"
