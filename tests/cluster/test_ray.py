"""Grids on a real Ray of several nodes on this machine: results of a local grid, and a node that dies in the middle."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from benchmark.__main__ import main
from benchmark.commands import tune
from benchmark.config.compose import load_config
from benchmark.errors import UserError
from benchmark.grid import ray_cluster
from benchmark.grid.training_run import Outcome
from tests import helpers
from tests.cluster.commands import assert_two_processes_train_as_here, train
from tests.conftest import tiny_overrides
from tests.helpers import plan_of, same, student_runs, trained

ray = pytest.importorskip("ray", reason="Ray is not installed: .[ray]")
EPOCHS = 40


@pytest.fixture
def nodes(slow_epochs: Callable[[float], None], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A Ray cluster whose head executes nothing; nodes are added by the tests."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    slow_epochs(0.25)  # in the workers, so that a node dies before the end of its run
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 80 * 2**20})
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def add_node(cluster: Any) -> Any:
    """Add a node with one core to a cluster."""
    return cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)


def wait_until_exists(path: Path) -> None:
    """Wait for a file."""
    end = time.monotonic() + 300
    while not path.exists():
        assert time.monotonic() < end, f"{path} is not there"
        time.sleep(0.05)


@pytest.mark.cluster
def test_tasks_give_the_results_of_a_local_grid(nodes, finished, tmp_path):
    add_node(nodes)
    add_node(nodes)
    local = plan_of(finished)
    overrides = [*finished, f"runs={tmp_path / 'cluster'}", "executor=ray", f"executor.address={nodes.address}"]
    assert {o.status for o in train(overrides)} == {"done"}
    for method, run in student_runs(local).items():
        assert same(trained(student_runs(plan_of(overrides))[method].folder), trained(run.folder))


@pytest.mark.cluster
def test_processes_of_a_task_train_a_run_together(nodes, tiny):
    nodes.add_node(num_cpus=2, object_store_memory=80 * 2**20)
    assert_two_processes_train_as_here(tiny, ["executor=ray", f"executor.address={nodes.address}", "executor.cpus=2"])


@pytest.mark.cluster
def test_a_run_whose_node_dies_continues_on_another(nodes, tmp_path):
    """Ray repeats the task; the run resumes from its checkpoint and ends once."""
    overrides = [*tiny_overrides(tmp_path), "methods=kd", f"recipe.epochs={EPOCHS}"]
    plan, _ = helpers.bench(overrides)
    uninterrupted = trained(student_runs(plan)["kd"].folder)
    shutil.copytree(tmp_path / "runs", tmp_path / "again")
    address = f"executor.address={nodes.address}"
    overrides = [*overrides, f"runs={tmp_path / 'again'}", "executor=ray", address]
    run = student_runs(plan_of(overrides))["kd"]
    shutil.rmtree(run.folder.path)
    first, outcomes = add_node(nodes), Future[list[Outcome]]()
    threading.Thread(target=lambda: outcomes.set_result(train(overrides)), daemon=True).start()
    wait_until_exists(run.folder.checkpoint)
    add_node(nodes)
    nodes.remove_node(first, allow_graceful=False)
    assert [str(o) for o in outcomes.result(300)] == ["resnet14-resnet8 kd seed 0: done"]
    assert [line["epoch"] for line in run.folder.metrics()] == list(range(1, EPOCHS + 1))
    assert same(trained(run.folder), uninterrupted)


@pytest.mark.cluster
def test_a_tuning_takes_the_places_of_a_cluster(nodes, tiny):
    """Two nodes of a core train three trials, each number once."""
    add_node(nodes)
    add_node(nodes)
    words = [*tiny, "methods=kd", "dataset.validation=0.25", "trials=3", "executor=ray"]
    words.append(f"executor.address={nodes.address}")
    assert main(["tune", *words]) == 0
    tuning = tune.plan_tuning(words)
    trials = tuning.study().get_trials()
    assert sorted((t.user_attrs["number"], t.state.name) for t in trials) == [(n, "COMPLETE") for n in (1, 2, 3)]


@pytest.mark.cluster
def test_a_run_that_fits_no_node_is_refused(nodes, finished):
    add_node(nodes)
    with pytest.raises(UserError, match=r"no node of the Ray cluster has .*: at most 1 CPU, 0 GPU"):
        train([*finished, "recipe.epochs=3", "executor=ray", "executor.cpus=8", f"executor.address={nodes.address}"])


def test_a_missing_ray_is_named_with_the_command_that_installs_it(monkeypatch):
    options = load_config(["executor=ray"]).executor
    with monkeypatch.context() as patch:
        patch.setattr(ray_cluster.importlib.util, "find_spec", lambda _: None)
        with pytest.raises(UserError, match=r"executor=ray needs Ray: pip install -c constraints.txt -e '\.\[ray\]'"):
            ray_cluster.RayCluster(options)


def test_a_run_that_a_dying_node_holds_is_waited_for(monkeypatch):
    outcomes = [Outcome("a", "busy"), Outcome("a", "busy"), Outcome("a", "done")]
    monkeypatch.setattr(ray_cluster, "BUSY_POLL_S", 0)
    assert ray_cluster._call(lambda: outcomes.pop(0)).status == "done" and not outcomes
