"""Grids on a real Slurm of one node: each run ends once, and bit for bit as it does on this machine alone."""

import itertools
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import TypeVar

import pytest

from benchmark.__main__ import main
from benchmark.commands import tune
from benchmark.commands.tuning_worker import TuningWorker
from benchmark.config.compose import load_config
from benchmark.grid import slurm
from benchmark.grid.slurm import Detached, SlurmQueue
from benchmark.grid.training_run import TrainingRun
from tests import helpers
from tests.cluster import slurm_node
from tests.cluster.commands import assert_two_processes_train_as_here, train
from tests.cluster.slurm_node import NODE, SlurmNode
from tests.conftest import tiny_overrides
from tests.helpers import TrainedRun, plan_of, same, student_runs, tracking_of, trained

pytestmark = pytest.mark.skipif(slurm_node.missing() is not None, reason=f"no Slurm: {slurm_node.missing()}")
pytest.importorskip("submitit", reason="submitit is not installed: .[slurm]")

T = TypeVar("T")
EPOCHS = 40
UNTIL_STOPPED = 0.25  # seconds that an epoch waits, so that the run is stopped before its end
ON_SLURM = ["executor=slurm", "executor.cpus=1", "executor.minutes=30", "executor.mem_gb=0.4"]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmNode]:
    folder = tmp_path_factory.mktemp("slurm")
    for part in itertools.takewhile(lambda path: path != Path(tempfile.gettempdir()), (folder, *folder.parents)):
        part.chmod(0o755)  # munged is another user
    with SlurmNode(folder) as started:
        yield started


@pytest.fixture
def cluster(node: SlurmNode, monkeypatch: pytest.MonkeyPatch) -> SlurmNode:
    for name, value in node.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(slurm, "POLL_S", 0.5)
    return node


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path, TrainedRun]:
    """A teacher and its student by KD, trained here: overrides, the folder of all runs, and the student."""
    folder = tmp_path_factory.mktemp("reference")
    overrides = [*tiny_overrides(folder), "methods=kd", f"recipe.epochs={EPOCHS}"]
    plan, _ = helpers.bench(overrides)
    return overrides, folder / "runs", trained(student_runs(plan)["kd"].folder)


@pytest.fixture
def untrained(reference, tmp_path: Path) -> tuple[list[str], TrainingRun]:
    """Overrides of a command on Slurm whose teacher is trained and whose student is not; and the student's run."""
    overrides, runs, _ = reference
    shutil.copytree(runs, tmp_path / "runs")
    overrides = [*overrides, f"runs={tmp_path / 'runs'}", *ON_SLURM]
    run = student_runs(plan_of(overrides))["kd"]
    shutil.rmtree(run.folder.path)
    return overrides, run


def in_background(function: Callable[[], T]) -> Future[T]:
    """Call a function in a thread."""
    future: Future[T] = Future()

    def call() -> None:
        try:
            future.set_result(function())
        except BaseException as e:
            future.set_exception(e)

    threading.Thread(target=call, daemon=True).start()
    return future


def wait_for(condition: Callable[[], object], seconds: float = 300) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"the condition did not hold within {seconds} s"
        time.sleep(0.05)


def trained_epochs(run: TrainingRun) -> list[int]:
    return [line["epoch"] for line in run.folder.metrics()]


def job_of(run: TrainingRun) -> str:
    """Return the id of a run's job."""
    return (slurm.store.read_json(run.settings.runs / "slurm" / "jobs.json") or {})[run.key]


def logs(run: TrainingRun) -> str:
    """Return what all jobs have printed."""
    return "".join(p.read_text() for p in sorted((run.settings.runs / "slurm").glob("*/*_log.*")))


def test_an_array_and_its_dependents_give_the_results_of_a_local_grid(cluster, finished, tmp_path, capsys):
    """The teacher is trained first; its student's identity is known only then."""
    local, overrides = plan_of(finished), [*finished, f"runs={tmp_path / 'cluster'}", *ON_SLURM]
    assert {o.status for o in train(overrides)} == {"done"}
    out = capsys.readouterr().out
    assert "submitted 2 runs as job" in out and "submitted 1 run as job" in out and ", after job" in out
    assert "[3/3]" in out and "resnet14-resnet8 kd seed 0: done" in out
    remote = student_runs(plan_of(overrides))
    for method, run in student_runs(local).items():
        assert remote[method].relative_path == run.relative_path
        assert same(trained(remote[method].folder), trained(run.folder))
    assert train(overrides) == [] and "submitted" not in capsys.readouterr().out


@pytest.mark.cluster
def test_processes_of_a_job_train_a_run_together(cluster, tiny):
    assert_two_processes_train_as_here(tiny, [*ON_SLURM, "executor.cpus=2", "executor.mem_gb=0.8"])


@pytest.mark.cluster
def test_a_stopped_command_leaves_its_jobs_and_the_same_command_waits_for_them(
    cluster, untrained, reference, slow_epochs, monkeypatch, capsys
):
    overrides, run = untrained
    slow_epochs(UNTIL_STOPPED)

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        # in the polling alone: subprocess sleeps, too
        patch.setattr(slurm, "time", SimpleNamespace(sleep=interrupt, strftime=time.strftime))
        with pytest.raises(Detached, match="1 runs stay in Slurm's queue: look with squeue --name=kd-") as stopped:
            train(overrides)
    name = str(stopped.value).split("--name=")[1].split(",")[0]
    assert job_of(run) in cluster.run("squeue", "-h", "-r", "-o", "%i", f"--name={name}").stdout
    job = job_of(run)
    assert [str(o) for o in train(overrides)] == ["resnet14-resnet8 kd seed 0: done"]
    assert "1 run in the queue already" in capsys.readouterr().out and job_of(run) == job
    assert same(trained(run.folder), reference[2])


def assert_continued(run: TrainingRun, uninterrupted: TrainedRun) -> None:
    """The run was resumed, has every epoch once, and ended like an uninterrupted one, bit for bit."""
    assert "resumed after epoch" in logs(run) and trained_epochs(run) == list(range(1, EPOCHS + 1))
    assert same(trained(run.folder), uninterrupted)


@pytest.mark.cluster
def test_a_cancelled_run_is_continued_by_the_same_command(cluster, untrained, reference, slow_epochs):
    overrides, run = untrained
    slow_epochs(UNTIL_STOPPED)
    first = in_background(lambda: train(overrides))
    wait_for(run.folder.checkpoint.exists)
    cluster.run("scancel", job_of(run))
    (outcome,) = first.result(120)
    assert outcome.status == "failed" and "was cancelled or died" in outcome.reason
    assert run.folder.status == "running" and 0 < len(trained_epochs(run)) < EPOCHS
    assert [o.status for o in train(overrides)] == ["done"]
    assert_continued(run, reference[2])


@pytest.mark.cluster
def test_a_run_that_slurm_requeues_continues(cluster, untrained, reference, slow_epochs):
    overrides, run = untrained
    slow_epochs(UNTIL_STOPPED)
    outcomes = in_background(lambda: train(overrides))
    wait_for(run.folder.checkpoint.exists)
    cluster.run("scontrol", "requeue", job_of(run))
    assert [o.status for o in outcomes.result(300)] == ["done"]
    assert_continued(run, reference[2])


@pytest.mark.cluster
def test_a_run_near_its_time_limit_is_requeued_and_continues(cluster, untrained, reference, slow_epochs):
    """Epochs wait, so that the run needs longer than the limit. Slurm may give the signal a minute earlier than asked
    for, which leaves a run of two minutes at least 45 s, starting included."""
    overrides, run = untrained
    slow_epochs(4.0)
    outcomes = train([*overrides, "executor.minutes=2", "executor.signal_s=15"])
    assert [o.status for o in outcomes] == ["done"], logs(run)
    assert "Caught signal SIGUSR2" in logs(run) and "Requeued job" in logs(run)
    assert_continued(run, reference[2])


@pytest.mark.cluster
def test_runs_wait_for_a_drained_node(cluster, untrained, reference, capsys):
    overrides, run = untrained
    cluster.run("scontrol", "update", f"nodename={NODE}", "state=drain", "reason=test")
    try:
        outcomes = in_background(lambda: train(overrides))
        wait_for(lambda: "(Nodes" in cluster.run("squeue", "-h", "-o", "%R").stdout)
        assert not run.folder.path.exists() and not outcomes.done()
    finally:
        cluster.run("scontrol", "update", f"nodename={NODE}", "state=resume")
    assert [o.status for o in outcomes.result(300)] == ["done"]
    assert "pending (Nodes required for job are DOWN, DRAINED" in capsys.readouterr().out
    assert same(trained(run.folder), reference[2])


def of_kd(overrides: list[str]) -> list[str]:
    """Overrides for a tuning or an ablation of KD on Slurm, two jobs at a time."""
    others = [word for word in overrides if not word.startswith("methods=")]
    return [*others, "dataset.validation=0.25", *ON_SLURM, "executor.array_parallelism=2"]


@pytest.mark.cluster
def test_a_tuning_is_trained_by_workers_whose_lost_trials_are_trained_again(cluster, tiny, slow_epochs):
    """Slurm requeues the workers in the middle of the default, which kills them without a warning."""
    words = [*of_kd(tiny), "methods=kd", "trials=3"]
    slow_epochs(4.0)
    tuning = tune.plan_tuning(words)
    status = in_background(lambda: main(["tune", *words]))
    wait_for(lambda: tuning.plan.teachers["resnet14"].folder.done)
    default = tuning.runs({})[0].folder
    wait_for(lambda: default.metrics())
    jobs = slurm.store.read_json(tuning.plan.settings.runs / "slurm" / "jobs.json") or {}
    for i in (1, 2):
        cluster.run("scontrol", "requeue", jobs[TuningWorker(tuning, tracking_of(tuning.plan), f"1-{i}").key])
    assert status.result(600) == 0
    attempts = [(t.user_attrs["number"], t.state.name) for t in tuning.study().get_trials()]
    assert sorted(number for number, state in attempts if state == "COMPLETE") == [1, 2, 3]
    assert (1, "FAIL") in attempts and default.done


@pytest.mark.cluster
def test_an_ablation_is_trained_as_arrays(cluster, tiny, tmp_path, capsys):
    assert main(["ablate", "method=kd", "kd.temperature=2,4", *of_kd(tiny)]) == 0
    assert "submitted 1 run as job" in capsys.readouterr().out
    tables = "".join(path.read_text() for path in (tmp_path / "reports" / "ablations").glob("*.md"))
    assert all(row in tables for row in ("4 (default)", "| KD ", "| Student "))


def test_slurm_says_why_it_refuses_jobs(cluster, finished, tmp_path):
    overrides = [*finished, f"runs={tmp_path / 'cluster'}", *ON_SLURM, "executor.partition=none"]
    with pytest.raises(slurm.UserError, match=r"Slurm refuses the jobs: .*nvalid partition"):
        train(overrides)
    assert not list((tmp_path / "cluster").glob("npz/*/*/*/*"))


def test_arrays_are_no_longer_than_slurm_allows(cluster, tmp_path):
    queue = SlurmQueue(load_config(["executor=slurm"]).executor, tmp_path)
    assert queue._largest_array() == 1001
