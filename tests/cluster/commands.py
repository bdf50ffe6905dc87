"""Commands on a cluster, and how their runs compare with those that this machine trains alone."""

from collections.abc import Sequence

from benchmark.commands import bench
from benchmark.grid.training_run import Outcome
from tests import helpers
from tests.helpers import plan_of, same, student_runs, tracking_of, trained


def train(overrides: list[str]) -> list[Outcome]:
    """Train what a command trains, and return the outcomes."""
    plan = plan_of(overrides)
    return bench.train(plan, tracking_of(plan))


def assert_two_processes_train_as_here(overrides: Sequence[str], on_cluster: Sequence[str]) -> None:
    """Assert that two processes train a run with equal weights and metrics here and on a cluster.

    overrides: of a tiny grid. on_cluster: the cluster's.
    """
    here = [*overrides, "methods=clkd", "distributed=true", "processes=2"]
    assert {outcome.status for outcome in helpers.bench(here)[1]} == {"done"}
    (runs,) = (word for word in here if word.startswith("runs="))
    there = [*here, f"{runs}_of_cluster", *on_cluster]
    assert {outcome.status for outcome in train(there)} == {"done"}
    local, remote = (student_runs(plan_of(words))["clkd"].folder for words in (here, there))
    assert remote.record.hardware["processes"] == 2
    assert same(trained(remote), trained(local))
