"""Recorded training steps do what the steps themselves do.

Where there is no GPU, a stand-in for a CUDA graph records the operations of a step and replays them in the same places
in memory; it refuses what a GPU would have to wait for.
"""

import copy
import itertools
from collections.abc import Callable
from unittest.mock import MagicMock

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmark.config import compose as configs
from benchmark.data import datasets as data
from benchmark.teacher import cache
from benchmark.training.capture import WARM, Unrecordable, cuda_graph
from benchmark.training.trainer import Schedule
from methods.crd import CRD
from tests.benchmark.training.test_trainer import PAIRS, SCHEDULE, build
from tests.conftest import write_tiny

METHODS = configs.group("method")
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


class Recording(TorchDispatchMode):
    """The operations between entering and leaving, but views; `again` does them in the same places."""

    def __init__(self) -> None:
        super().__init__()
        self.done = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        assert operation.overloadpacket not in WAITS, f"{operation} makes a GPU wait"
        given = operation(*args, **(kwargs or {}))
        schema = operation._schema
        if schema.is_mutable or all(r.alias_info is None for r in schema.returns):
            self.done.append((operation, args, kwargs or {}, None if schema.is_mutable else given))
        return given

    @torch.no_grad()
    def again(self) -> None:
        for operation, args, kwargs, places in self.done:
            given = operation(*args, **kwargs)
            for place, value in zip(tree_leaves(places), tree_leaves(given), strict=places is not None):
                if isinstance(place, torch.Tensor):
                    place.copy_(value)


def stand_in(function: Callable, generator: torch.Generator) -> tuple[Callable[[], None], object]:
    """A `Recorder` for the CPU. It does the function while it records, and so nothing in the first replay."""
    with Recording() as recording:
        given = function()
    calls = itertools.count()
    return lambda: recording.again() if next(calls) else None, given


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_tiny(folder / "tiny.npz", train=54)
    config = configs.load(["dataset=npz", "dataset.file=tiny.npz", "dataset.size=16", "dataset.padding=2"]).dataset
    return data.load(config, folder)


def trained(dataset, name: str, record, *, root=None, schedule=SCHEDULE) -> tuple[list, dict]:
    """Measures and weights of two epochs of 6 batches of 8 and one of 6, and of the end of a first stage before it."""
    trainer = build(dataset, name, PAIRS[0], schedule=schedule, record=record)
    for module in trainer.method.modules():
        if isinstance(module, CRD):
            module.sampler.thinning = False  # the way that it draws on a GPU
    if root is not None:
        header = trainer.cache_header("teacher", "data")
        needs = trainer.method.teacher_needs
        trainer.cache = cache.opened(root, header, needs, 1.0, trainer.taught)[0]
        if trainer.method.second_view:
            header = trainer.second_cache_header("teacher", "data")
            trainer.second_cache = cache.opened(root, header, needs, 1.0, trainer.taught)[0]
    epochs = [-1, 0, 1, 2] if trainer.method.pre_epochs else [1, 2]
    with Unchanged():
        measures = [trainer.epoch(epoch, lambda *_: None) for epoch in epochs]
    return measures, copy.deepcopy(trainer.state())


def assert_same(a, b) -> None:
    """Bit for bit."""
    (measures, state), (others, other) = a, b
    assert measures == others
    for x, y in zip(tree_leaves(state), tree_leaves(other), strict=True):
        assert torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y


@pytest.mark.parametrize("name", METHODS)
def test_replayed_steps_train_as_the_steps_themselves(dataset, name):
    # a rate that falls between the epochs, and warm-ups that go on in both
    schedule = Schedule(0.05, 0.9, False, 5e-4, [1.0], 0.1)
    assert_same(trained(dataset, name, stand_in, schedule=schedule), trained(dataset, name, None, schedule=schedule))


@pytest.mark.parametrize("name", ["kd", "crd", "catkd", "mlld", "cskd", "ce"])
def test_what_the_caches_give_is_read_anew_in_each_step(dataset, tmp_path, name):
    expected = trained(dataset, name, None, root=tmp_path / "a")
    for _ in range(2):  # filling them, and filled
        assert_same(trained(dataset, name, stand_in, root=tmp_path / "b"), expected)


def test_a_recording_is_made_once_an_epoch_of_batches_of_full_size(dataset):
    made = []

    def record(function, generator):
        made.append(generator)
        return stand_in(function, generator)

    steps = []
    trainer = build(dataset, "kd", PAIRS[0], record=record)
    inner = trainer._replayed._step
    trainer._replayed._step = lambda batch, known: steps.append(len(batch.labels)) or inner(batch, known)
    trainer.epoch(1, lambda *_: None)
    assert len(made) == 1 and steps == [8] * (WARM + 1) + [6]
    trainer.epoch(2, lambda *_: None)
    assert len(made) == 2 and steps[WARM + 2 :] == [8, 8, 6]  # the first is run as it is
    assert made[0] is not made[1]  # each epoch has a stream of random numbers of its own


def test_a_step_that_reads_the_device_cannot_be_recorded():
    def reads():
        x = torch.ones(3)
        return x / x.sum().item()

    with pytest.raises(AssertionError, match="makes a GPU wait"):
        stand_in(reads, torch.Generator())


class Ill:
    """In place of `torch.cuda.graph`: ending the recording of what must not be recorded fails as well."""

    def __init__(self, graph, stream) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_) -> None:
        raise RuntimeError("CUDA error: operation failed due to a previous error during capture")


def test_a_step_that_cannot_be_recorded_is_told_with_its_cause_and_the_remedy(monkeypatch):
    def reads():
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nCompile with …")

    monkeypatch.setattr("torch.cuda.CUDAGraph", MagicMock())
    monkeypatch.setattr("torch.cuda.graph", Ill)
    monkeypatch.setattr("benchmark.training.capture.recording_stream", lambda: None)
    with pytest.raises(Unrecordable, match=r"stream is capturing\): it must not .* with cuda_graph=false"):
        cuda_graph(reads, torch.Generator())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_goes_on_after_a_step_that_cannot_be_recorded(dataset, monkeypatch):
    trainer = build(dataset, "kd", PAIRS[0], record=cuda_graph, device="cuda")
    losses = trainer.method.losses

    def reads(student, teacher, batch):
        student.logits.sum().item()
        return losses(student, teacher, batch)

    monkeypatch.setattr(trainer.method, "losses", reads)
    with pytest.raises(Unrecordable, match="train it with cuda_graph=false"):
        trainer.epoch(1, lambda *_: None)
    other = build(dataset, "crd", PAIRS[0], record=cuda_graph, device="cuda")
    assert other.epoch(1, lambda *_: None)["loss"] > 0


@pytest.fixture
def alike(monkeypatch):
    """Sums in the same order each time, where torch can, and full precision: else two runs of the same steps differ."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", METHODS)
def test_a_cuda_graph_trains_as_the_steps_themselves(dataset, name, alike):
    found = []
    for record in (None, cuda_graph):
        trainer = build(dataset, name, PAIRS[0], record=record, device="cuda")
        epochs = [-1, 0, 1, 2] if trainer.method.pre_epochs else [1, 2]
        found.append([trainer.epoch(epoch, lambda *_: None) for epoch in epochs])
    assert_alike(*found)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["dkd", "fitnet", "mlld"])  # a warm-up, a live teacher, and two views
def test_a_cuda_graph_of_compiled_parts_trains_as_the_steps_themselves(dataset, name, alike):
    found = []
    for more in ({}, {"record": cuda_graph, "compiled": True}):
        trainer = build(dataset, name, PAIRS[0], device="cuda", **more)
        found.append([trainer.epoch(epoch, lambda *_: None) for epoch in (1, 2, 3)])
    assert_alike(*found)


def assert_alike(eager: list, replayed: list) -> None:
    """To rounding; one image of the epoch's 54 may be classed otherwise for it."""
    for expected, measured in zip(eager, replayed, strict=True):
        hits, expected_hits = measured.pop("train_top1"), expected.pop("train_top1")
        assert measured == pytest.approx(expected, rel=1e-2, abs=1e-3)
        assert hits == pytest.approx(expected_hits, abs=1.01 * 100 / 54)
