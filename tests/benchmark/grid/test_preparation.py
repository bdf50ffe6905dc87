"""What a run is trained with, built from its plan."""

from benchmark.grid.preparation import build_trainer, load_dataset
from benchmark.grid.training_run import TrainingRun
from benchmark.teacher.outputs import CachedOutputs
from benchmark.training.graphs import SINGLE_GRAPH
from benchmark.training.parallel import ALONE
from tests.helpers import bench, student_runs


def keys_of_live_passes(run: TrainingRun) -> set:
    """The keys of the passes that the run's first step reads."""
    trainer, _ = build_trainer(run, load_dataset(run), SINGLE_GRAPH, ALONE)
    batch = next(trainer.loader.epoch(1, trainer.method.requires.views))
    return set(trainer.teacher_outputs.shared_reads(batch, CachedOutputs()))


def test_methods_of_one_seed_can_share_the_passes_of_their_teacher(tiny):
    words = [*tiny, "methods=ce,kd,fitnet,mlld", "seeds=0,1", "recipe.epochs=1"]
    keys = {name: keys_of_live_passes(run) for name, run in student_runs(bench(words)[0]).items()}
    assert len(keys["kd-0"]) == 1 and keys["kd-0"] == keys["fitnet-0"]
    assert len(keys["mlld-0"]) == 2 and keys["kd-0"] < keys["mlld-0"]  # its other view is read by none
    assert not keys["kd-0"] & keys["kd-1"] and not keys["ce-0"]
    other_teacher = student_runs(bench([*tiny, "methods=kd", "recipe.epochs=1", "pair=resnet8-resnet8"])[0])["kd"]
    assert not keys["kd-0"] & keys_of_live_passes(other_teacher)
