"""Training steps of every method on unlike pairs, the three invariants, bf16, compilation, overfitting, divergence."""

import copy
import functools
import itertools
import math
import os
import shutil

import pytest
import torch
from torch.utils._pytree import tree_leaves

import methods
from benchmark import networks
from benchmark.networks.base import LOGITS
from benchmark.teacher.outputs import TeacherOutputs
from benchmark.training.evaluation import Diverged
from benchmark.training.seeding import seeded
from benchmark.training.trainer import Schedule, StepFunctions, compile_functions
from methods.contract import Initialization, Method, Needs, Outputs, Requirements, Term
from tests.benchmark.training.trainers import (
    METHODS,
    PAIRS,
    all_epochs,
    batches,
    batches_of_each_stage,
    build_trainer,
    no_progress,
    stages,
    tiny_dataset,
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return tiny_dataset(tmp_path_factory.mktemp("data"), train=24)


def tensors(outputs: Outputs) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(vars_of(outputs)) if isinstance(leaf, torch.Tensor)]


def vars_of(outputs: Outputs) -> dict:
    return {**vars(outputs), "further_views": [vars_of(view) for view in outputs.further_views]}


# ---------------------------------------------------------------- every method


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("name", methods.available())
def test_two_steps_keep_the_teacher_and_train_everything_else(dataset, name, pair):
    trainer = build_trainer(dataset, name, pair)
    frozen = trainer.teacher_outputs.teacher
    teacher = copy.deepcopy(frozen.state_dict())
    trained = dict(trainer.network.named_parameters(prefix="network"))
    trained |= dict(trainer.method.named_parameters(prefix="method"))
    before = {k: p.detach().clone() for k, p in trained.items()}
    names = []
    for batch in batches_of_each_stage(trainer, 2):
        record, logits, _ = trainer.step(batch)
        assert all(math.isfinite(v) for v in record.values())
        assert logits.shape == (8, dataset.classes)
        names.append(list(record))
        weighted = [v for k, v in record.items() if k.startswith("weighted/")]
        assert record["loss"].item() == pytest.approx(sum(v.item() for v in weighted), rel=1e-5, abs=1e-5)
        assert len(weighted) == sum(k.startswith("loss/") for k in record)
    assert names[0] == names[1] and names[-1] == names[-2], "the terms of a stage are the same in every step"
    # 1. every reachable parameter is optimized, or belongs to the frozen teacher
    optimized = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert {id(p) for p in trained.values()} == optimized
    assert all(p.requires_grad for p in trained.values())
    unchanged = {k: p for k, p in trained.items() if torch.equal(before[k], p)}
    assert not [k for k in unchanged if k.startswith("method")], "not trained"
    if unchanged:  # only layers that inference does not use, such as a classifier that the teacher's replaces
        model = trainer.inference_model
        assert model is not trainer.network, f"not trained: {list(unchanged)}"
        loss = model(batch.images[0]).logits.sum()
        gradients = torch.autograd.grad(loss, list(unchanged.values()), allow_unused=True)
        assert all(g is None for g in gradients), "not trained"
    # 2. the teacher is bit for bit what it was, and still in eval mode
    assert all(torch.equal(teacher[k], v) for k, v in frozen.state_dict().items())
    assert not any(m.training for m in frozen.modules())
    assert all(p.grad is None and not p.requires_grad for p in frozen.parameters())


@pytest.mark.parametrize("name", METHODS)
def test_a_method_receives_what_it_requires_and_leaves_the_global_random_state_alone(dataset, name):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    trainer = build_trainer(dataset, name)
    received = []
    losses = trainer.method.losses

    def spy(student, teacher, batch):
        received.append((student, teacher))
        return losses(student, teacher, batch)

    trainer._eager = trainer._eager._replace(losses=spy)
    for epoch, batch in zip(stages(trainer), batches_of_each_stage(trainer, 1), strict=True):
        trainer.step(batch)
        for outputs, needs in zip(received[-1], trainer.method.requires.needs(epoch), strict=True):
            views = [outputs, *outputs.further_views]
            assert len(views) == (1 if needs.empty else trainer.method.requires.views)
            for view in views:
                assert (view.logits is not None) == needs.logits
                assert (view.pooled is not None) == needs.pooled
                assert (view.last_map is not None) == needs.last_map
                assert set(view.maps) == needs.maps and set(view.pre_activations) == needs.pre_activations
                assert set(view.class_maps) == needs.class_maps
        assert not any(t.requires_grad for t in tensors(received[-1][1]))
    assert torch.equal(state, torch.get_rng_state())
    with seeded("teacher", 0):
        fresh = networks.build("resnet14", dataset.classes)
    assert all(torch.equal(v, trainer.teacher_outputs.teacher.state_dict()[k]) for k, v in fresh.state_dict().items())


@pytest.mark.parametrize("name", methods.available())
def test_gradients_are_finite_under_bf16(dataset, name):
    trainer = build_trainer(dataset, name, precision="bf16")
    for batch in batches_of_each_stage(trainer, 2):
        trainer.step(batch)
        gradients = [p.grad for p in [*trainer.network.parameters(), *trainer.method.parameters()]]
        assert any(g is not None for g in gradients)
        assert all(g is None or g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("name", ["kd", "mlld", "ab"])
def test_students_of_one_seed_start_alike_and_see_the_same_batches_under_every_method(dataset, name):
    trainer, alone = build_trainer(dataset, name, seed=3), build_trainer(dataset, "ce", seed=3)
    assert all(torch.equal(a, b) for a, b in zip(trainer.network.parameters(), alone.network.parameters(), strict=True))
    for a, b in zip(batches(trainer), batches(alone), strict=True):
        assert torch.equal(a.indices, b.indices) and torch.equal(a.images[0], b.images[0])


class ConfidentTeacher:
    """Replaces a teacher's forward pass by one that knows the labels of one batch."""

    def __init__(self, teacher, labels: torch.Tensor, classes: int) -> None:
        self.teacher, self.classes = teacher, classes
        # wrong classes must differ, or DKD on standardized logits can settle with the target's logit the lowest
        self.logits = 8.0 * (-(labels[:, None] - torch.arange(classes)).abs()).exp()
        with torch.no_grad():  # the first pooled features are the logits
            teacher.head.weight.copy_(torch.eye(*teacher.head.weight.shape))
            teacher.head.bias.zero_()

    def __call__(self, images: torch.Tensor, needs: Needs) -> Outputs:
        with torch.no_grad():
            outputs = networks.Network.forward(self.teacher, images, needs)
        pooled = torch.nn.functional.pad(self.logits, (0, self.teacher.head.in_features - self.classes))
        if needs.logits:
            outputs.logits = self.logits
        if needs.pooled:
            outputs.pooled = pooled
        if needs.last_map:
            outputs.last_map = pooled[:, :, None, None].expand_as(outputs.last_map)
        outputs.class_maps = {m: self.logits[:, :, None, None].expand_as(v) for m, v in outputs.class_maps.items()}
        return outputs


@pytest.mark.parametrize("name", methods.available())
def test_one_batch_is_overfitted(dataset, name):
    trainer = build_trainer(dataset, name, batch_size=24, schedule=Schedule(0.02, 0.9, False, 0.0, [], 0.1))
    batch = next(batches(trainer))
    trainer.teacher_outputs.teacher.forward = ConfidentTeacher(
        trainer.teacher_outputs.teacher, batch.labels, dataset.classes
    )
    correct = []
    while len(correct) < 10 and (not correct or correct[-1] <= 0.95):
        for _ in range(30):
            trainer.step(batch)
        with torch.no_grad():
            logits = trainer.inference_model(batch.images[0]).logits
        correct.append((logits.argmax(1) == batch.labels).float().mean().item())
    assert correct[-1] > 0.95, correct


# ---------------------------------------------------------------- compilation


@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_student_trains_alike(dataset):
    """With a smaller last batch, and with DOT, which runs the backward pass twice per step."""
    results = []
    for compiled in (False, True):
        trainer = build_trainer(dataset, "dot", batch_size=20, compiled=compiled)
        before = copy.deepcopy(trainer.network.state_dict())
        measures = [trainer.epoch(epoch, no_progress) for epoch in (1, 2)]
        results.append((measures, trainer.network.state_dict()))
    assert hasattr(trainer._compiled.student, "_torchdynamo_orig_callable")
    (eager, expected), (measured, weights) = results
    assert measured == [pytest.approx(m, rel=1e-3) for m in eager]
    for key, value in weights.items():
        torch.testing.assert_close(value, expected[key], rtol=1e-2, atol=1e-4)
        assert not torch.equal(value, before[key]), key
    assert list(weights) == list(before), "compiled and eager runs have interchangeable checkpoints"


@pytest.mark.parametrize("name", methods.available())
def test_compiled_losses_and_teacher_train_alike(dataset, name, monkeypatch):
    """Over an epoch of each stage with a smaller last batch, as torch traces and differentiates them; generating
    kernels would only be slow."""
    monkeypatch.setattr("torch.compile", functools.partial(torch.compile, backend="aot_eager"))
    results = []
    for compiled in (False, True):
        trainer = build_trainer(dataset, name, batch_size=20)
        teacher = trainer.teacher_outputs.network
        if compiled:
            functions = StepFunctions(trainer.network, trainer.method.losses, teacher)
            trainer._compiled = compile_functions(functions, graphs=False)._replace(student=trainer.network)
        results.append([trainer.epoch(epoch, no_progress) for epoch in [*stages(trainer), 2]])
    eager, measured = results
    assert measured == [pytest.approx(m, rel=1e-3) for m in eager]
    assert getattr(trainer._compiled.losses, "_torchdynamo_orig_callable", None) == trainer.method.losses
    assert getattr(trainer._compiled.teacher, "_torchdynamo_orig_callable", None) == teacher.forward


@pytest.fixture
def compilations(monkeypatch):
    """The graphs that torch compiles: for each the first dimensions of its input tensors."""
    sizes = []

    def backend(graph, inputs):
        sizes.append({x.shape[0] for x in inputs if isinstance(x, torch.Tensor) and x.dim()})
        return graph.forward

    torch.compiler.reset()
    monkeypatch.setattr("torch.compile", functools.partial(torch.compile, backend=backend))
    return sizes


def test_smaller_last_batches_are_not_compiled(dataset, compilations):
    trainer = build_trainer(dataset, "fitnet", batch_size=20, compiled=True)
    trainer.epoch(1, no_progress)
    compiled = len(compilations)
    assert compiled >= 3 and all(20 in sizes and 4 not in sizes for sizes in compilations)
    trainer.epoch(2, no_progress)
    assert len(compilations) == compiled


def test_a_process_may_compile_more_specializations_than_torch_keeps_by_default(dataset, compilations):
    """torch keeps 8 by default and silently runs further ones in eager mode; beyond our limit it fails."""
    trainer = build_trainer(dataset, "ce", compiled=True)
    images = next(batches(trainer)).images[0]
    for n, chosen in enumerate(itertools.islice(itertools.product((0, 1), repeat=4), 1, 13), start=1):
        trainer._compiled.student(images, Needs(maps=list(itertools.compress(range(4), chosen))))
        assert len(compilations) == n
    limit = torch._dynamo.config.patch(recompile_limit=n)  # the undoing of pytest's monkeypatch would remove it
    with limit, pytest.raises(Exception, match="fail_on_recompile_limit_hit"):
        trainer._compiled.student(images, Needs(maps=range(4)))


# ---------------------------------------------------------------- the loop


def constant_requirements(method: Method, init_epochs: int) -> None:
    method.requires = Requirements(LOGITS, Needs(), initialization=Initialization(init_epochs, LOGITS, Needs()))


@pytest.mark.parametrize(("init_epochs", "epoch"), [(0, 1), (2, -1)])
def test_divergence_names_the_first_bad_step_and_term(dataset, init_epochs, epoch):
    trainer, steps = build_trainer(dataset, "ce"), itertools.count(1)

    def losses(student, teacher, batch):
        ce = torch.nn.functional.cross_entropy(student.logits, batch.labels)
        return {"ce": Term(ce, 1.0), "big": Term(ce * (math.inf if next(steps) >= 3 else 1.0), 0.5)}

    trainer._eager = trainer._eager._replace(losses=losses)
    constant_requirements(trainer.method, init_epochs)
    with pytest.raises(Diverged, match=rf"term big is inf at step 3 \(epoch {epoch}\)"):
        trainer.epoch(epoch, no_progress)


@pytest.mark.parametrize("init_epochs", [0, 2])
def test_features_precede_the_first_epoch_and_every_epoch_starts_with_its_hook(dataset, init_epochs):
    trainer, calls = build_trainer(dataset, "kd"), []
    kd, method = trainer.method.losses, trainer.method
    stage = Initialization(init_epochs, LOGITS, LOGITS) if init_epochs else None
    method.requires = Requirements(initialization=stage, teacher_features=True)
    method.on_teacher_features = lambda features, labels: calls.append((features.shape, labels.shape))
    method.on_epoch_start = lambda epoch: calls.append((epoch, torch.is_grad_enabled()))
    trainer._eager = trainer._eager._replace(losses=lambda *args: calls.append("step") or kd(*args))
    epochs = range(1 - init_epochs, 3)
    for epoch in epochs:
        trainer.epoch(epoch, no_progress)
    features = (torch.Size([24, 64]), torch.Size([24]))
    assert calls == [features, *(call for epoch in epochs for call in [(epoch, False), *["step"] * 3])]


def test_a_method_that_does_not_require_features_receives_none(dataset):
    trainer = build_trainer(dataset, "kd")
    trainer.method.on_teacher_features = lambda *_: pytest.fail("KD requires no features")
    trainer.epoch(1, no_progress)


def test_a_parameter_may_receive_its_first_gradient_after_others(dataset):
    """A fused step, as on a GPU, needs the momentum of all its parameters or of none."""
    trainer = build_trainer(dataset, "ce")
    for group in trainer.optimizer.param_groups:
        group["fused"], group["foreach"] = True, False
    steps = itertools.count()

    def losses(student, teacher, batch):  # the classifier is trained from the second step on
        reached = student.logits if next(steps) else trainer.network.conv1.weight
        return {"ce": Term(reached.square().mean(), 1.0)}

    trainer._eager = trainer._eager._replace(losses=losses)
    head = trainer.network.head.weight
    for batch, unchanged in zip(batches(trainer), (True, False), strict=False):
        before = head.clone()
        trainer.step(batch)
        assert torch.equal(head, before) == unchanged


def test_the_learning_rate_falls_after_the_milestones():
    learning_rate = Schedule(0.05, 0.9, False, 5e-4, [150, 180, 210], 0.1).learning_rate
    epochs = (1, 150, 151, 180, 181, 210, 211, 240)
    expected = [0.05, 0.05, 5e-3, 5e-3, 5e-4, 5e-4, 5e-5, 5e-5]
    assert [learning_rate(e) for e in epochs] == pytest.approx(expected)


def test_a_method_that_needs_a_teacher_is_not_trained_without_one(dataset):
    trainer = build_trainer(dataset, "kd")
    with pytest.raises(ValueError, match="needs a teacher"):
        TeacherOutputs(None, trainer.method.requires, trainer.loader, device="cpu", precision="fp32")


def test_training_resumed_from_a_state_continues_bit_for_bit(dataset):
    whole, first = build_trainer(dataset, "ab"), build_trainer(dataset, "ab")
    lines = [whole.epoch(epoch, no_progress) for epoch in all_epochs(whole)]
    assert [first.epoch(epoch, no_progress) for epoch in (-1, 0, 1)] == lines[:3]
    resumed = build_trainer(dataset, "ab")
    resumed.load_state(copy.deepcopy(first.state()))
    assert resumed.epoch(2, no_progress) == lines[3]
    pairs = zip(whole.network.state_dict().values(), resumed.network.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("channels_last", [True, False])
def test_the_gradient_of_a_map_has_the_memory_format_of_the_map(channels_last):
    """The gradient of a mean is NCHW by itself."""
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.randn(2, 3, 4, 4).contiguous(memory_format=memory_format).requires_grad_()
    formats = []
    x.register_hook(lambda gradient: formats.append(gradient.is_contiguous(memory_format=memory_format)))
    Outputs(maps={1: x * 1.0}).select(Needs(maps=[1])).maps[1].square().mean().backward()
    assert formats == [True]
