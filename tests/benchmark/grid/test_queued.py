"""Plans that are queued as a whole: students wait in the queue for teachers whose content is not yet known."""

import pickle
from collections.abc import Iterator, Mapping, Sequence

from benchmark.grid.queued import QueuedRun, run_queued_plan
from benchmark.grid.training_run import Outcome
from tests.helpers import plan_of, same, student_runs, tracking_of, trained


class QueueHere:
    """Executes queued runs in this process, each from its pickle, when their outcomes are asked for."""

    def __init__(self, lost: Sequence[str] = ()) -> None:
        self.lost = lost  # names of runs whose jobs die
        self.arrays: list[tuple[list[str], str | None]] = []  # names of runs, and the job they wait for
        self._jobs = 0

    def enqueue(self, runs: Sequence[QueuedRun], after: str | None = None) -> list[str]:
        self.arrays.append(([queued.run.name for queued in runs], after))
        self._jobs += len(runs)
        return [str(i) for i in range(self._jobs - len(runs), self._jobs)]

    def outcomes(self, jobs: Mapping[str, QueuedRun]) -> Iterator[Outcome]:
        for queued in jobs.values():
            name = queued.run.name
            yield Outcome(name, "failed", "lost") if name in self.lost else pickle.loads(pickle.dumps(queued))()


def test_a_queued_grid_gives_the_results_of_a_local_one(finished, tmp_path):
    local, overrides = student_runs(plan_of(finished)), [*finished, f"runs={tmp_path / 'queued'}"]
    plan, queue = plan_of(overrides), QueueHere()
    assert {o.status for o in run_queued_plan(plan, tracking_of(plan), queue)} == {"done"}
    assert queue.arrays == [
        (["teacher resnet14", "resnet8 ce seed 0"], None),
        (["resnet14-resnet8 kd seed 0"], "0"),
    ]
    for method, run in student_runs(plan_of(overrides)).items():
        assert run.relative_path == local[method].relative_path
        assert same(trained(run.folder), trained(local[method].folder))
    again = QueueHere()
    plan = plan_of(overrides)
    assert run_queued_plan(plan, tracking_of(plan), again) == [] and again.arrays == []


def test_students_of_a_teacher_that_failed_say_so(finished, tmp_path):
    plan = plan_of([*finished, f"runs={tmp_path / 'queued'}", "methods=kd"])
    outcomes = run_queued_plan(plan, tracking_of(plan), QueueHere(lost=["teacher resnet14"]))
    assert [str(o) for o in outcomes] == [
        "teacher resnet14: failed: lost",
        "resnet14-resnet8 kd seed 0: failed: its teacher resnet14 is not trained",
    ]


def test_students_of_a_teacher_that_is_not_accepted_say_so(finished, tmp_path):
    plan = plan_of([*finished, f"runs={tmp_path / 'queued'}", "methods=kd", "teacher.min_top1=100"])
    teacher, student = run_queued_plan(plan, tracking_of(plan), QueueHere())
    assert teacher.status == "done"
    assert student.status == "failed" and "less than the 100.00 % of teacher.min_top1" in student.reason


def test_a_run_keeps_its_key_when_its_teacher_is_trained(finished, tmp_path):
    awaiting = plan_of([*finished, f"runs={tmp_path / 'queued'}"]).awaiting("resnet14")
    run = student_runs(plan_of(finished))["kd"]
    assert [r.key for r in awaiting] == [run.key]
    assert awaiting[0].taught_by(run.config["teacher"]["sha256"]).identity == run.identity != awaiting[0].identity
