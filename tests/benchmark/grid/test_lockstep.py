"""Runs side by side in one process train as they would alone, whatever happens to the others.

Without a GPU, the stand-in of `tests.benchmark.training.test_capture` captures the branches.
"""

import copy
import functools

import pytest
import torch

from benchmark.grid.lockstep import Lockstep
from benchmark.teacher.outputs import TeacherOutputs
from benchmark.training.capture import WARMUP_STEPS
from benchmark.training.graphs import SINGLE_GRAPH, CaptureError, SharedPasses
from tests.benchmark.training.test_capture import METHODS, assert_close, assert_same, deterministic, record, train
from tests.benchmark.training.trainers import build_trainer, no_progress, tiny_dataset

__all__ = ["deterministic"]  # a fixture
EPOCHS = (1, 2)


class Captures:
    """Records branches on the CPU, and keeps how many each graph has."""

    def __init__(self) -> None:
        self.sizes = []

    def __call__(self, branches):
        self.sizes.append(len(branches))
        passes = SharedPasses(branches, None)
        replays, results = zip(*(record(functools.partial(b.function, passes)) for b in branches), strict=True)
        # in another order than recorded, where none waits for what another one computes
        order = replays if any(branch.reads for branch in branches) else replays[::-1]
        return lambda: [replay() for replay in order], list(results)


def on_the_cpu(runs: int, capture_branches) -> Lockstep:
    return Lockstep(runs, new_stream=lambda: None, capture_branches=capture_branches)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return tiny_dataset(tmp_path_factory.mktemp("data"), train=54)


@pytest.mark.parametrize("names", [["kd", "ce", "crd"], ["mlld", "dkd", "clkd", "kd"], ["ab", "fitnet", "ce"]])
def test_runs_side_by_side_train_as_alone(dataset, names):
    captures = Captures()
    with on_the_cpu(len(names), captures) as lockstep:
        futures = [lockstep.submit(train, dataset, name, lockstep) for name in names]
        together = [future.result() for future in futures]
    for name, result in zip(names, together, strict=True):
        assert_same(result, train(dataset, name, None))
    assert max(captures.sizes) == len(names)


@pytest.mark.parametrize(("seeds", "passes"), [((0, 0, 0), 1), ((0, 1, 0), 2)])
def test_runs_with_equal_batches_share_the_pass_of_a_live_teacher(dataset, monkeypatch, seeds, passes):
    # they read different outputs of it, one of them those of a single stage
    runs = list(zip(["kd", "fitnet", "crd"], seeds, strict=True))
    live, calls = TeacherOutputs.live, []
    monkeypatch.setattr(TeacherOutputs, "live", lambda *args, **more: calls.append(1) or live(*args, **more))
    with on_the_cpu(3, Captures()) as lockstep:
        futures = [lockstep.submit(train_seed, dataset, *run, lockstep) for run in runs]
        together = [future.result() for future in futures]
    eager = 3 * (WARMUP_STEPS + 1 + 2)  # of three runs, the last batches and the first of the second epoch included
    assert len(calls) == eager + 2 * passes  # captured once in each of two epochs
    for run, result in zip(runs, together, strict=True):
        assert_same(result, train_seed(dataset, *run, None))


def train_seed(dataset, name: str, seed: int, capture) -> tuple[list, dict]:
    """Train a method whose batches are those of all runs of its seed."""
    return train(dataset, name, capture, seed=seed, source=f"seed {seed}")


def test_all_runs_begin_an_epoch_together(dataset):
    captures = Captures()
    with on_the_cpu(3, captures) as lockstep:
        futures = [lockstep.submit(train, dataset, name, lockstep) for name in ("kd", "ce", "dkd", "crd")]
        together = [future.result() for future in futures]
    assert captures.sizes == [3, 3, 1, 1]  # two epochs of three runs, then the fourth takes the place of one
    assert_same(together[3], train(dataset, "crd", None))


def test_a_run_that_ends_early_leaves_the_others_exact(dataset):
    class Stopped(Exception):
        pass

    def stop_in_epoch(lockstep):
        trainer = build_trainer(dataset, "ce", capture=lockstep)

        def on_step(step, steps):
            if step == 5:
                raise Stopped

        trainer.epoch(1, on_step)

    captures = Captures()
    with on_the_cpu(2, captures) as lockstep:
        stopped = lockstep.submit(stop_in_epoch, lockstep)
        whole = lockstep.submit(train, dataset, "kd", lockstep)
        with pytest.raises(Stopped):
            stopped.result()
        assert_same(whole.result(), train(dataset, "kd", None))
    assert captures.sizes == [2, 1, 1]  # captured again without it, and in the second epoch


def count(lockstep: Lockstep, steps: int, *, fails: bool = False) -> int:
    """A run of counted steps."""
    counted = []

    def step(passes):
        if fails:
            raise CaptureError("it cannot be captured")
        return lambda: counted.append(1)

    replay = lockstep(step, torch.Generator(), {})
    for _ in range(steps):
        replay()
    return len(counted)


def capture_without_doing(branches):
    does = [branch.function(None) for branch in branches]
    return lambda: [do() for do in does], does


def test_a_step_that_cannot_be_captured_fails_its_run_alone():
    with on_the_cpu(3, capture_without_doing) as lockstep:
        good, other = (lockstep.submit(count, lockstep, n) for n in (4, 6))
        bad = lockstep.submit(lambda: count(lockstep, 3, fails=True))
        with pytest.raises(CaptureError, match="cannot be captured"):
            bad.result()
        assert (good.result(), other.result()) == (4, 6)


def test_an_interruption_ends_all_runs_and_cancels_those_that_wait():
    ended = []

    def forever():
        try:
            count(lockstep, 10**9)
        except KeyboardInterrupt:
            ended.append(True)
            raise

    def interrupted():
        count(lockstep, 3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), on_the_cpu(2, capture_without_doing) as lockstep:
        futures = [lockstep.submit(f) for f in (forever, interrupted, forever)]
        futures[0].result()
    assert ended == [True] and futures[2].cancelled()


def test_an_error_of_a_replay_ends_what_is_waited_for():
    def capture_a_fault(branches):
        def replay():
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

        return replay, [None for _ in branches]

    with on_the_cpu(2, capture_a_fault) as lockstep:
        futures = [lockstep.submit(count, lockstep, 3) for _ in range(2)]
        for future in futures:
            with pytest.raises(RuntimeError, match="illegal memory access"):
                future.result()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("names", [METHODS[i : i + 8] for i in range(0, len(METHODS), 8)])
def test_branches_of_a_cuda_graph_train_like_a_graph_of_their_own(dataset, names, deterministic):
    def epochs(name, capture):
        trainer = build_trainer(dataset, name, capture=capture, device="cuda")
        return [trainer.epoch(epoch, no_progress) for epoch in EPOCHS]

    with Lockstep(len(names)) as lockstep:
        futures = [lockstep.submit(epochs, name, lockstep) for name in names]
        together = [future.result() for future in futures]
    for name, result in zip(names, together, strict=True):
        assert_close(epochs(name, SINGLE_GRAPH), result)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_runs_that_share_a_pass_on_a_gpu_train_like_eager_ones(dataset, deterministic):
    def epochs(name, capture):
        trainer = build_trainer(dataset, name, capture=capture, device="cuda", source="one")
        return [trainer.epoch(epoch, no_progress) for epoch in EPOCHS]

    names = ["dkd", "fitnet", "crd", "mlld"]  # logits, the map of a stage, pooled features, two views
    with Lockstep(len(names)) as lockstep:
        futures = [lockstep.submit(epochs, name, lockstep) for name in names]
        together = [future.result() for future in futures]
    for name, result in zip(names, together, strict=True):
        alone, eager = epochs(name, SINGLE_GRAPH), epochs(name, None)
        assert_close(copy.deepcopy(eager), alone)
        assert_close(eager, result)
