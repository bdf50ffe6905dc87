"""Several workers on one study: equal budgets, numbers that count once, and trials of dead processes given back."""

import contextlib
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from benchmark.__main__ import main
from benchmark.commands import tune, tuning_study, tuning_trial, tuning_worker
from benchmark.commands.tuning_study import Tuning
from benchmark.grid.executors import Serial
from benchmark.grid.progress import Progress
from benchmark.grid.run import execute
from benchmark.grid.training_run import BUSY, Outcome
from benchmark.runs import locks
from benchmark.runs.record import RunRecord
from benchmark.training.seeding import seed_for
from tests.benchmark.commands.test_tune import KD, reports, rows, runs
from tests.conftest import ROOT
from tests.helpers import plan_of, tracking_of

SLOW_EPOCHS = ROOT / "tests" / "cluster" / "slow_epochs.py"


@pytest.fixture
def words(finished) -> list[str]:
    """A tuning of KD whose teacher is trained: 12 validation images, one epoch, one seed."""
    others = [w for w in finished if not w.startswith("methods=")]
    return [*others, "methods=kd", "dataset.validation=0.25"]


@pytest.fixture
def trained_teacher(words) -> list[str]:
    """The same, with the teacher for these training images trained, too."""
    plan = plan_of(words)
    assert execute(plan.teachers["resnet14"], tracking_of(plan), Progress(1)).status == "done"
    return words


@contextlib.contextmanager
def process(words: list[str], seconds_per_epoch: float, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """`tune` in another process, whose epochs take so many seconds longer."""
    site = folder / "site"
    site.mkdir(exist_ok=True)
    shutil.copy(SLOW_EPOCHS, site / "sitecustomize.py")
    environment = {
        **os.environ, "PYTHONPATH": str(site), "SECONDS_PER_EPOCH": str(seconds_per_epoch), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    started = subprocess.Popen(
        [sys.executable, "-u", "-m", "benchmark", "tune", *words], cwd=ROOT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        yield started
    finally:
        started.kill()
        started.wait()


def read_until(started: subprocess.Popen[str], text: str) -> list[str]:
    """Read what a process prints up to a line that contains a text."""
    assert started.stdout is not None
    lines = []
    for line in started.stdout:
        lines.append(line)
        if text in line:
            return lines
    raise AssertionError(f"it ended without {text!r}:\n{''.join(lines)}")


def journal(tuning: Tuning) -> list[dict[str, Any]]:
    """The number and the state of all attempts in the study."""
    return [{"number": t.user_attrs.get("number"), "state": t.state.name} for t in tuning.study().get_trials()]


def finished_numbers(tuning: Tuning) -> list[int]:
    return sorted(t["number"] for t in journal(tuning) if t["state"] in ("COMPLETE", "PRUNED"))


# ------------------------------------------------------------ one worker


def expected_proposals(space: dict[str, Any], default: dict[str, float], trials: int) -> list[dict[str, float]]:
    """What Optuna alone proposes one after another, for `objective`, each by a fresh sampler."""
    study = optuna.create_study(direction="maximize")
    study.enqueue_trial(default)
    proposals = []
    for number in range(1, trials + 1):
        study.sampler = optuna.samplers.TPESampler(seed=seed_for("tuning", 0, number) % 2**32)
        trial = study.ask(space)
        proposals.append(dict(trial.params))
        study.tell(trial, objective(trial.params["kd_weight"]))
    return proposals


def objective(kd_weight: float) -> float:
    """A validation accuracy."""
    return 50 - 10 * abs(math.log10(float(f"{kd_weight:.4g}") / 3))


@pytest.fixture
def untrained(monkeypatch) -> list[float]:
    """Runs are not trained: their accuracy is `objective`. The returned list receives the kd_weight of each."""
    weights = []

    def run(run, *_: Any) -> RunRecord:
        weights.append(run.config["method"]["kd_weight"])
        return RunRecord(val_top1_last=objective(weights[-1]), top1_last=10.0)

    monkeypatch.setattr(tuning_trial, "finish_run", run)
    monkeypatch.setattr(tune, "finish_run", run)
    return weights


def test_one_worker_proposes_what_optuna_proposes_one_after_another(trained_teacher, tmp_path, untrained):
    """14 trials: from the eleventh on, proposals are by the densities of the earlier ones."""
    tuning = tune.plan_tuning(trained_teacher)
    assert main(["tune", *trained_teacher, "trials=14"]) == 0
    expected = expected_proposals(dict(tuning.space), tuning.default_values(), 14)
    assert [[float(r[k]) for k in KD] for r in rows(tmp_path)] == [
        [float(f"{proposal[k]:.4g}") for k in KD] for proposal in expected
    ]


def test_a_study_of_an_earlier_version_is_continued(trained_teacher, tmp_path, untrained):
    """Its trials have no numbers, and one was in training when its process was killed."""
    tuning = tune.plan_tuning([*trained_teacher, "trials=6"])
    expected = expected_proposals(dict(tuning.space), tuning.default_values(), 6)
    tuning.journal.parent.mkdir(parents=True)
    storage = JournalStorage(JournalFileBackend(str(tuning.journal)))
    study = optuna.create_study(storage=storage, study_name=tuning.stem, direction="maximize")
    for params in expected[:4]:
        study.enqueue_trial(params)
        trial = study.ask(dict(tuning.space))
        options = {k: float(f"{v:.4g}") for k, v in params.items()}
        trial.set_user_attr("options", options)
        if params is not expected[3]:
            trial.set_user_attr("val", {"0": objective(options["kd_weight"])})
            study.tell(trial, objective(options["kd_weight"]))
    assert main(["tune", *trained_teacher, "trials=6"]) == 0
    assert [[float(r[k]) for k in KD] for r in rows(tmp_path)] == [
        [float(f"{proposal[k]:.4g}") for k in KD] for proposal in expected
    ]
    assert [t["state"] for t in journal(tuning)] == [*["COMPLETE"] * 3, "FAIL", *["COMPLETE"] * 3]
    assert len(untrained) == 3 + 2  # the missing three; the default and the chosen one for the report


# ------------------------------------------------------------ several workers


def test_jobs_train_as_many_trials_as_one(trained_teacher, tmp_path, capsys):
    assert main(["tune", *trained_teacher, "trials=3", "jobs=2"]) == 0
    assert "2 trials at a time" in capsys.readouterr().out
    table = rows(tmp_path)
    assert [r["trial"] for r in table] == ["1", "2", "3"] and {r["state"] for r in table} == {"complete"}
    assert [float(table[0][k]) for k in KD] == [4.0, 0.1, 0.9]
    assert finished_numbers(tune.plan_tuning([*trained_teacher, "trials=3"])) == [1, 2, 3]
    store = runs(tmp_path)
    assert len({tuple(float(r[k]) for k in KD) for r in table}) == 3
    for r in table:
        run = store[(*(float(r[k]) for k in KD), 0)]
        assert run.done and float(r["val_mean"]) == run.record.val_top1_last


def test_two_commands_at_once_share_a_study(trained_teacher, tmp_path):
    """Neither may claim before both are there. What one trains, the other does not, and both report the same."""
    tuning, words = tune.plan_tuning([*trained_teacher, "trials=6"]), [*trained_teacher, "trials=6"]
    with process(words, 1.0, tmp_path) as first, process(words, 1.0, tmp_path) as second:
        with tuning.locked():
            for started in (first, second):
                read_until(started, "tuning kd on")
        outputs = [started.communicate()[0] for started in (first, second)]
        assert [first.returncode, second.returncode] == [0, 0], outputs
    numbers = [[int(x.split("/")[0].split()[1]) for x in out.splitlines() if x.startswith("trial ")] for out in outputs]
    assert sorted(numbers[0] + numbers[1]) == [1, 2, 3, 4, 5, 6] and all(numbers)
    assert journal(tuning) == [{"number": t["number"], "state": "COMPLETE"} for t in journal(tuning)]
    assert finished_numbers(tuning) == [1, 2, 3, 4, 5, 6]
    summary = reports(tmp_path)[".md"].read_text()
    assert all(summary.splitlines()[0] in out for out in outputs)


def test_the_trial_of_a_killed_process_is_given_back_to_another_command(trained_teacher, tmp_path):
    """The other one waits while the process lives; then it resumes the run, whose number counts once."""
    tuning, words = tune.plan_tuning([*trained_teacher, "trials=2"]), [*trained_teacher, "trials=2"]
    default = tuning.runs({})[0]
    with process(words, 1000.0, tmp_path) as killed, contextlib.ExitStack() as stack:
        while not default.folder.metrics():
            assert killed.poll() is None, killed.communicate()[0]
            time.sleep(0.05)
        other = stack.enter_context(process(words, 0.0, tmp_path))
        read_until(other, "the missing trials are in training by another process")
        assert journal(tuning) == [{"number": 1, "state": "RUNNING"}, {"number": 2, "state": "COMPLETE"}]
        os.kill(killed.pid, signal.SIGKILL)
        out = other.communicate()[0]
        assert other.returncode == 0, out
    assert journal(tuning) == [
        {"number": 1, "state": "FAIL"}, {"number": 2, "state": "COMPLETE"}, {"number": 1, "state": "COMPLETE"},
    ]  # fmt: skip
    assert [r["state"] for r in rows(tmp_path)] == ["complete"] * 2 and default.folder.done


# ------------------------------------------------------------ claims


def test_a_number_that_is_given_back_keeps_its_proposal(trained_teacher):
    """Although other trials have been finished in the meantime."""
    tuning = tune.plan_tuning([*trained_teacher, "trials=3"])
    study = tuning.study()
    with tuning_worker.claimed(tuning, study) as first, tuning_worker.claimed(tuning, study) as second:
        assert first is not None and second is not None and (first.number, second.number) == (1, 2)
        proposal = second.trial.user_attrs["options"]
        with tuning_worker.claimed(tuning, study) as third, tuning_worker.claimed(tuning, study) as none:
            assert third is not None and third.number == 3 and none is None
            assert third.trial.user_attrs["options"] != proposal
            for claim, value in ((first, 40.0), (third, 60.0)):
                claim.trial.set_user_attr("val", {"0": value})
                study.tell(claim.trial, value)
        tuning_worker.give_back(study, second.trial)
        assert tuning_worker.free_numbers(tuning, study) == [2]
    with tuning_worker.claimed(tuning, study) as again:
        assert again is not None and again.number == 2 and again.trial.user_attrs["options"] == proposal


def test_a_trial_in_training_is_not_given_back(trained_teacher):
    tuning = tune.plan_tuning(trained_teacher)
    study = tuning.study()
    with tuning_worker.claimed(tuning, study) as claim:
        assert claim is not None
        tuning_worker.give_back_dead_trials(tuning, study)
        assert journal(tuning) == [{"number": 1, "state": "RUNNING"}]
    tuning_worker.give_back_dead_trials(tuning, study)  # its lock is free now, as after the end of its process
    assert journal(tuning) == [{"number": 1, "state": "FAIL"}]


def test_a_trial_that_another_host_has_taken_over_does_not_count(trained_teacher, untrained, capsys, monkeypatch):
    """A process that was paused for too long learns that its number was given back, and goes on with the next one."""
    tuning = tune.plan_tuning([*trained_teacher, "trials=2"])
    study, tell = tuning.study(), optuna.Study.tell
    stolen = []

    def steal(self, trial, *values, **more):
        if not stolen:
            stolen.append(tell(self, trial, state=optuna.trial.TrialState.FAIL))
            with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
                trial.set_user_attr("val", {})
            raise optuna.exceptions.UpdateFinishedTrialError("finished")
        return tell(self, trial, *values, **more)

    monkeypatch.setattr(optuna.Study, "tell", steal)
    assert tuning_worker.run_missing_trials(tuning, tune.Tracking(tuning.plan.config.tracker, Path())) == []
    assert "trial 1/2: another process has taken it over" in capsys.readouterr().out
    assert [t["state"] for t in journal(tuning)] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert finished_numbers(tuning) == [1, 2] and not list(study.get_trials(states=[optuna.trial.TrialState.RUNNING]))


def test_a_run_that_another_process_holds_is_waited_for(trained_teacher, monkeypatch, capsys):
    tuning = tune.plan_tuning([*trained_teacher, "trials=1"])
    waits = []

    def busy_once(run, *_: Any, wait: bool = False) -> Outcome:
        waits.append(wait)
        return Outcome(run.name, "done" if wait else BUSY)

    monkeypatch.setattr(tuning_trial, "execute", busy_once)
    place = tuning_trial.Place(tune.Tracking(tuning.plan.config.tracker, Path()), tuning_trial.WatchedProgress(1))
    tuning_trial.finish_run(tuning.runs({})[0], place)
    assert waits == [False, True] and "another process trains it; waiting until it ends" in capsys.readouterr().out
    with pytest.raises(tuning_trial.Unfinished):
        tuning_trial.finish_run(tuning.runs({})[0], tuning_trial.Place(place.tracking, place.progress, waits=False))


def test_a_worker_that_dies_is_named_and_the_others_go_on(trained_teacher, untrained, monkeypatch, capsys):
    """As with runs of a grid; the budget stays open, and the same command goes on."""

    class Dying(Serial):
        """An executor whose first process dies."""

        submitted = 0

        def submit(self, function, /, *args):
            self.submitted += 1
            if self.submitted > 1:
                return super().submit(function, *args)
            future = tuning_worker.Future()
            future.set_exception(RuntimeError("its process ended with status -9"))
            return future

    executor = Dying()
    monkeypatch.setattr(tuning_worker, "open_executor", lambda _: contextlib.nullcontext(executor))
    tuning = tune.plan_tuning([*trained_teacher, "trials=3", "jobs=2"])
    study = tuning.study()
    with tuning_worker.claimed(tuning, study) as held:  # what the dead worker trained
        assert held is not None
        failures = tuning_worker.run_missing_trials(tuning, tune.Tracking(tuning.plan.config.tracker, Path()))
    (failure,) = failures
    assert str(failure) == (
        "worker 1-1 of tuning kd on resnet14-resnet8: failed: RuntimeError: its process ended with status -9"
    )
    assert finished_numbers(tuning) == [2, 3]
    assert tuning_worker.run_missing_trials(tuning, tune.Tracking(tuning.plan.config.tracker, Path())) == []
    assert finished_numbers(tuning) == [1, 2, 3]


def test_the_lock_of_a_journal_removes_an_incomplete_line(tmp_path):
    path = tmp_path / "a.journal"
    for content, left in ((b"", b""), (b"whole\n", b"whole\n"), (b"whole\npart", b"whole\n"), (b"part", b"")):
        path.write_bytes(content)
        lock = tuning_study.JournalLock(path, tmp_path / "lock")
        assert lock.acquire() and path.read_bytes() == left
        with pytest.raises(locks.RunBusy), locks.lock(tmp_path / "lock"):
            pass
        lock.release()
        with locks.lock(tmp_path / "lock"):
            pass
