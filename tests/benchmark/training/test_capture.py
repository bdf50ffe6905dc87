"""Captured and replayed training steps equal eager ones.

Without a GPU, a stand-in for a CUDA graph records the operations of a step and replays them in the same places in
memory; it rejects operations for which a GPU would have to be waited for.
"""

import copy
import functools
import itertools
from collections.abc import Callable
from unittest.mock import MagicMock

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmark.training.capture import WARMUP_STEPS
from benchmark.training.graphs import SINGLE_GRAPH, Branch, CaptureError, SharedPasses
from benchmark.training.trainer import Schedule
from methods.crd import CRD
from tests.benchmark.training.trainers import METHODS, all_epochs, build_trainer, no_progress, tiny_dataset

aten = torch.ops.aten
# What brings numbers to the CPU, or takes them from there, or gives tensors whose size depends on numbers.
WAITS = {
    aten._local_scalar_dense, aten.lift_fresh, aten.nonzero, aten.masked_select, aten._unique2, aten.bincount,
    aten.unique_dim, aten.unique_consecutive, aten.repeat_interleave,
}  # fmt: skip


class Unchanged(TorchDispatchMode):
    """Does what it sees. With such a mode torch adds up some gradients in another memory format, and rounds otherwise:
    all runs that are compared have one."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        return operation(*args, **(kwargs or {}))


class Recorder(TorchDispatchMode):
    """The operations between entering and leaving, but views; `again` does them in the same places."""

    def __init__(self) -> None:
        super().__init__()
        self.done = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        assert operation.overloadpacket not in WAITS, f"{operation} makes a GPU wait"
        result = operation(*args, **(kwargs or {}))
        schema = operation._schema
        if schema.is_mutable or all(r.alias_info is None for r in schema.returns):
            self.done.append((operation, args, kwargs or {}, None if schema.is_mutable else result))
        return result

    @torch.no_grad()
    def again(self) -> None:
        for operation, args, kwargs, places in self.done:
            result = operation(*args, **kwargs)
            for place, value in zip(tree_leaves(places), tree_leaves(result), strict=places is not None):
                if isinstance(place, torch.Tensor):
                    place.copy_(value)


def record(function: Callable) -> tuple[Callable[[], None], object]:
    """Capture a function for the CPU. It is done while it is recorded, and so the first replay does nothing."""
    with Recorder() as recorder:
        result = function()
    calls = itertools.count()
    return lambda: recorder.again() if next(calls) else None, result


class StandIn:
    """Captures steps on the CPU."""

    stream = None

    def __init__(self) -> None:
        self.generators = []

    def __call__(self, function: Callable, generator: torch.Generator, reads: dict) -> Callable[[], object]:
        self.generators.append(generator)
        passes = SharedPasses([Branch(function, generator, None, reads)], None)
        replay, result = record(functools.partial(function, passes))
        return lambda: (replay(), result)[1]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return tiny_dataset(tmp_path_factory.mktemp("data"), train=54)


def train(dataset, name: str, capture, *, cache_root=None, **more) -> tuple[list, dict]:
    """Measures and state after two epochs of each stage: 6 batches of 8 and one of 6 each."""
    trainer = build_trainer(dataset, name, capture=capture, **more)
    for module in trainer.method.modules():
        if isinstance(module, CRD):
            module.sampler.thinning = False  # draw as on a GPU
    if cache_root is not None:
        trainer.teacher_outputs.open_caches(cache_root, trainer.method.context, "teacher", "data", 1.0)
    with Unchanged():
        measures = [trainer.epoch(epoch, no_progress) for epoch in all_epochs(trainer)]
    return measures, copy.deepcopy(trainer.state())


def assert_same(a, b) -> None:
    """Bit for bit."""
    (measures, state), (others, other) = a, b
    assert measures == others
    for x, y in zip(tree_leaves(state), tree_leaves(other), strict=True):
        assert torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y


@pytest.mark.parametrize("name", METHODS)
def test_replayed_steps_train_like_eager_ones(dataset, name):
    # a rate that falls between the epochs, and warm-ups that go on in both
    schedule = Schedule(0.05, 0.9, False, 5e-4, [1.0], 0.1)
    assert_same(train(dataset, name, StandIn(), schedule=schedule), train(dataset, name, None, schedule=schedule))


@pytest.mark.parametrize("name", ["kd", "crd", "catkd", "mlld", "cskd", "ce"])
def test_cached_outputs_are_read_again_in_every_step(dataset, tmp_path, name):
    expected = train(dataset, name, None, cache_root=tmp_path / "a")
    for _ in range(2):  # filling them, and filled
        assert_same(train(dataset, name, StandIn(), cache_root=tmp_path / "b"), expected)


def test_full_batches_are_captured_once_per_epoch(dataset):
    capture, steps = StandIn(), []
    trainer = build_trainer(dataset, "kd", capture=capture)
    inner = trainer._graphed._step
    trainer._graphed._step = lambda batch, *rest: steps.append(len(batch.labels)) or inner(batch, *rest)
    trainer.epoch(1, no_progress)
    assert len(capture.generators) == 1 and steps == [8] * (WARMUP_STEPS + 1) + [6]
    trainer.epoch(2, no_progress)
    assert len(capture.generators) == 2 and steps[WARMUP_STEPS + 2 :] == [8, 8, 6]  # the first is run as it is
    assert capture.generators[0] is not capture.generators[1]  # each epoch has a stream of random numbers of its own


def test_the_stand_in_rejects_a_step_that_reads_the_device():
    def reads(passes):
        x = torch.ones(3)
        return x / x.sum().item()

    with pytest.raises(AssertionError, match="makes a GPU wait"):
        StandIn()(reads, torch.Generator(), {})


class Ill:
    """In place of `torch.cuda.graph`: ending the recorder of what must not be recorded fails as well."""

    def __init__(self, graph, stream) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_) -> None:
        raise RuntimeError("CUDA error: operation failed due to a previous error during capture")


def test_a_failed_capture_reports_its_cause_and_the_remedy(monkeypatch):
    def reads(passes):
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nCompile with …")

    monkeypatch.setattr("torch.cuda.CUDAGraph", MagicMock())
    monkeypatch.setattr("torch.cuda.graph", Ill)
    monkeypatch.setattr("benchmark.training.graphs.capture_stream", lambda: None)
    monkeypatch.setattr("benchmark.training.graphs._record_event", lambda stream: None)
    with pytest.raises(CaptureError, match=r"stream is capturing\): it must not .* with cuda_graph=false"):
        SINGLE_GRAPH(reads, torch.Generator(), {})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_works_after_a_failed_capture(dataset):
    trainer = build_trainer(dataset, "kd", capture=SINGLE_GRAPH, device="cuda")
    losses = trainer.method.losses

    def reads(student, teacher, batch):
        student.logits.sum().item()
        return losses(student, teacher, batch)

    trainer._eager = trainer._eager._replace(losses=reads)
    with pytest.raises(CaptureError, match="train it with cuda_graph=false"):
        trainer.epoch(1, no_progress)
    other = build_trainer(dataset, "crd", capture=SINGLE_GRAPH, device="cuda")
    assert other.epoch(1, no_progress)["loss"] > 0


@pytest.fixture
def deterministic(monkeypatch):
    """Sums in the same order each time, where torch can, and full precision: else two runs of the same steps differ."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", METHODS)
def test_a_cuda_graph_trains_like_eager_steps(dataset, name, deterministic):
    results = []
    for capture in (None, SINGLE_GRAPH):
        trainer = build_trainer(dataset, name, capture=capture, device="cuda")
        results.append([trainer.epoch(epoch, no_progress) for epoch in all_epochs(trainer)])
    assert_close(*results)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["dkd", "fitnet", "mlld"])  # a warm-up, a live teacher, and two views
def test_a_cuda_graph_of_compiled_functions_trains_like_eager_steps(dataset, name, deterministic):
    results = []
    for more in ({}, {"capture": SINGLE_GRAPH, "compiled": True}):
        trainer = build_trainer(dataset, name, device="cuda", **more)
        results.append([trainer.epoch(epoch, no_progress) for epoch in (1, 2, 3)])
    assert_close(*results)


def assert_close(eager: list, replayed: list) -> None:
    """To rounding; one image of the epoch's 54 may be classed otherwise for it."""
    for expected, measured in zip(eager, replayed, strict=True):
        hits, expected_hits = measured.pop("train_top1"), expected.pop("train_top1")
        assert measured == pytest.approx(expected, rel=1e-2, abs=1e-3)
        assert hits == pytest.approx(expected_hits, abs=1.01 * 100 / 54)
