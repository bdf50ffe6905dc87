"""What holds for every method: two steps on unlike pairs, the three invariants, bf16, overfitting, divergence."""

import copy
import functools
import itertools
import math
import os
import shutil

import pytest
import torch

from benchmark import networks
from benchmark.config import compose as configs
from benchmark.data import datasets as data
from benchmark.data.loader import Loader
from benchmark.grid.build import build_method
from benchmark.training.evaluation import Diverged, Evaluator, autocast
from benchmark.training.seeding import seeded
from benchmark.training.trainer import Parts, Schedule, Trainer, compile_parts, lowered
from methods.contract import Method, Needs, Outputs, Term, UnsupportedPair
from tests.conftest import write_tiny

METHODS = configs.group("method")
PAIRS = ["resnet14-resnet8", "vgg13-MobileNetV2", "wrn16_2-ShuffleV1"]
SCHEDULE = Schedule(lr=0.05, momentum=0.9, nesterov=False, weight_decay=5e-4, milestones=[], gamma=0.1)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_tiny(folder / "tiny.npz", train=24)
    config = configs.load(["dataset=npz", "dataset.file=tiny.npz", "dataset.size=16", "dataset.padding=2"]).dataset
    return data.load(config, folder)


def build(
    dataset,
    name: str,
    pair: str,
    *,
    precision: str = "fp32",
    batch: int = 8,
    schedule=SCHEDULE,
    seed: int = 0,
    device: str = "cpu",
    **more,
):
    """A trainer of one method on one pair, as a cell builds it; skips where the method cannot be on that pair.

    Every method must be able to be on the first of PAIRS.
    """
    teacher_name, student_name = networks.split_pair(pair)
    chosen = configs.method(name, pair, ["crd.negatives=16"] if name == "crd" else [])
    with seeded("teacher", 0):
        teacher = networks.build(teacher_name, dataset.classes).eval().requires_grad_(False)
    with seeded("network", seed):
        student = networks.build(student_name, dataset.classes)
    try:
        method = build_method(chosen.resolved(), student_name, teacher_name, dataset, 10, seed, device)
    except UnsupportedPair as reason:
        if pair == PAIRS[0]:
            raise
        pytest.skip(str(reason))
    loader = Loader(dataset.train, dataset.config, batch, seed, device)
    return Trainer(
        student.to(device), method, teacher.to(device), loader, schedule, device=device, precision=precision, **more
    )


def batches(trainer, epoch=1):
    trainer.network.train()
    trainer.method.train()
    return iter(trainer.loader.epoch(epoch, trainer.method.second_view))


@pytest.mark.parametrize("name", ["wrn16_2", "resnet8x4", "vgg8", "ResNet50", "MobileNetV2", "ShuffleV1", "ShuffleV2"])
def test_a_teacher_run_in_bf16_gives_what_it_gave(name):
    with seeded("teacher", 0):
        teacher = networks.build(name, 10).eval().requires_grad_(False)
    before = copy.deepcopy(teacher.state_dict())
    needs = Needs.of(logits=True, pooled=True, maps=range(teacher.stages), cams=[2])
    images = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    run = lowered(teacher, "bf16")
    with torch.no_grad(), autocast("cpu", "bf16"):
        expected, found = (list(_tensors(n(images, needs))) for n in (teacher, run))
    assert len(found) > teacher.stages
    assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    assert any(p.dtype == torch.bfloat16 for p in run.parameters())
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    assert lowered(teacher, "fp32") is teacher


@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_student_is_trained_alike(dataset):
    """With a smaller last batch, and with DOT, which goes through the backward pass twice a step."""
    found = []
    for compiled in (False, True):
        trainer = build(dataset, "dot", PAIRS[0], batch=20, compiled=compiled)
        before = copy.deepcopy(trainer.network.state_dict())
        measures = [trainer.epoch(epoch, lambda *_: None) for epoch in (1, 2)]
        found.append((measures, trainer.network.state_dict()))
    assert hasattr(trainer._compiled.network, "_torchdynamo_orig_callable")
    (eager, expected), (measured, weights) = found
    assert measured == [pytest.approx(m, rel=1e-3) for m in eager]
    for key, value in weights.items():
        torch.testing.assert_close(value, expected[key], rtol=1e-2, atol=1e-4)
        assert not torch.equal(value, before[key]), key
    assert list(weights) == list(before)  # a checkpoint of one is one of the other


@pytest.mark.parametrize("name", METHODS)
def test_compiled_losses_and_a_compiled_teacher_train_alike(dataset, name, monkeypatch):
    """Over two epochs of each stage and a smaller last batch, as torch traces and differentiates them; the kernels that
    it would generate are its own, and slow to make."""
    monkeypatch.setattr("torch.compile", functools.partial(torch.compile, backend="aot_eager"))
    found = []
    for compiled in (False, True):
        trainer = build(dataset, name, PAIRS[0], batch=20)
        if compiled:
            parts = Parts(trainer.network, trainer.method.losses, trainer.teacher)
            trainer._compiled = compile_parts(parts, graphs=False)._replace(network=trainer.network)
        epochs = [-1, 0, 1, 2] if trainer.method.pre_epochs else [1, 2]
        found.append([trainer.epoch(epoch, lambda *_: None) for epoch in epochs])
    eager, measured = found
    assert measured == [pytest.approx(m, rel=1e-3) for m in eager]
    traced = getattr(trainer._compiled.losses, "_torchdynamo_orig_callable", None)
    assert traced == trainer.method.losses
    assert getattr(trainer._compiled.teacher, "_torchdynamo_orig_callable", None) == trainer.teacher.forward


@pytest.fixture
def traced(monkeypatch):
    """What torch compiles: for each time the first dimensions of the tensors that it was for."""
    found = []

    def backend(graph, inputs):
        found.append({x.shape[0] for x in inputs if isinstance(x, torch.Tensor) and x.dim()})
        return graph.forward

    torch.compiler.reset()
    monkeypatch.setattr("torch.compile", functools.partial(torch.compile, backend=backend))
    return found


def test_smaller_last_batches_are_not_compiled_for(dataset, traced):
    trainer = build(dataset, "fitnet", PAIRS[0], batch=20, compiled=True)
    trainer.epoch(1, lambda *_: None)
    compiled = len(traced)
    assert compiled >= 3 and all(20 in sizes and 4 not in sizes for sizes in traced)
    trainer.epoch(2, lambda *_: None)
    assert len(traced) == compiled


def test_a_process_compiles_as_many_passes_as_it_trains(dataset, traced, monkeypatch):
    """torch keeps 8 forms of what is compiled by itself, and runs the others as they are. Beyond our limit it fails."""
    trainer = build(dataset, "ce", PAIRS[0], compiled=True)
    images = next(batches(trainer)).images
    for n, stages in enumerate(itertools.islice(itertools.product((0, 1), repeat=4), 1, 13), start=1):
        trainer._compiled.network(images, Needs.of(maps=itertools.compress(range(4), stages)))
        assert len(traced) == n
    monkeypatch.setattr("torch._dynamo.config.recompile_limit", n)
    with pytest.raises(Exception, match="fail_on_recompile_limit_hit"):
        trainer._compiled.network(images, Needs.of(maps=range(4)))


@pytest.mark.parametrize("channels_last", [True, False])
def test_the_gradient_of_a_map_comes_in_the_map_s_memory_format(channels_last):
    """A mean's gradient is NCHW by itself."""
    form = torch.channels_last if channels_last else torch.contiguous_format
    given = torch.randn(2, 3, 4, 4).contiguous(memory_format=form).requires_grad_()
    maps = given * 1.0
    seen = []
    given.register_hook(lambda gradient: seen.append(gradient.is_contiguous(memory_format=form)))
    Outputs(maps={1: maps}).only(Needs.of(maps=[1])).maps[1].square().mean().backward()
    assert seen == [True]


def each_stage(trainer, batches_of_each):
    """Some batches of the training, and before them as many of the first stage where there is one."""
    for epoch in [0, 1] if trainer.method.pre_epochs else [1]:
        yield from itertools.islice(batches(trainer, epoch), batches_of_each)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("name", METHODS)
def test_two_steps_keep_the_teacher_and_train_everything_else(dataset, name, pair):
    trainer = build(dataset, name, pair)
    teacher = copy.deepcopy(trainer.teacher.state_dict())
    trained = dict(trainer.network.named_parameters(prefix="network"))
    trained |= dict(trainer.method.named_parameters(prefix="method"))
    before = {k: p.detach().clone() for k, p in trained.items()}
    names = []
    for batch in each_stage(trainer, 2):
        record, logits = trainer.step(batch)
        assert all(math.isfinite(v) for v in record.values())
        assert logits.shape == (8, dataset.classes)
        names.append(list(record))
        # what the sum is made of is in the record, raw and weighted
        weighted = [v for k, v in record.items() if k.startswith("weighted/")]
        assert record["loss"].item() == pytest.approx(sum(v.item() for v in weighted), rel=1e-5, abs=1e-5)
        assert len(weighted) == sum(k.startswith("loss/") for k in record)
    assert names[0] == names[1] and names[-1] == names[-2], "the terms of a stage are the same in every step"
    # 1. every parameter that can be reached is optimised, or it is the frozen teacher's
    optimised = {id(p) for group in trainer.optimiser.param_groups for p in group["params"]}
    assert {id(p) for p in trained.values()} == optimised
    assert all(p.requires_grad for p in trained.values())
    left = {k: p for k, p in trained.items() if torch.equal(before[k], p)}
    assert not [k for k in left if k.startswith("method")], "not trained"
    if left:  # of the network only what is not used at inference, as the classifier where the teacher's replaces it
        deployed = trainer.deployed
        assert deployed is not trainer.network, f"not trained: {list(left)}"
        used = torch.autograd.grad(deployed(batch.images).logits.sum(), list(left.values()), allow_unused=True)
        assert not [k for k, g in zip(left, used, strict=True) if g is not None], "not trained"
    # 2. the teacher is bit for bit what it was, and still in eval mode
    assert all(torch.equal(teacher[k], v) for k, v in trainer.teacher.state_dict().items())
    assert not any(m.training for m in trainer.teacher.modules())
    assert all(p.grad is None and not p.requires_grad for p in trainer.teacher.parameters())


@pytest.mark.parametrize("name", METHODS)
def test_building_leaves_the_networks_and_the_global_random_state_alone(dataset, name):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    trainer = build(dataset, name, "wrn16_2-resnet8")
    next(batches(trainer))
    assert torch.equal(state, torch.get_rng_state())
    with seeded("teacher", 0):
        fresh = networks.build("wrn16_2", dataset.classes)
    assert all(torch.equal(v, trainer.teacher.state_dict()[k]) for k, v in fresh.state_dict().items())


@pytest.mark.parametrize("name", METHODS)
def test_a_step_draws_from_the_batch_generator_alone(dataset, name):
    trainer = build(dataset, name, "resnet14-resnet8")
    torch.manual_seed(1)
    state = torch.get_rng_state()
    for batch in each_stage(trainer, 1):
        trainer.step(batch)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("name", METHODS)
def test_students_of_one_seed_start_alike_and_see_the_same_batches_under_every_method(dataset, name):
    trainer, alone = build(dataset, name, PAIRS[0], seed=3), build(dataset, "ce", PAIRS[0], seed=3)
    assert all(torch.equal(a, b) for a, b in zip(trainer.network.parameters(), alone.network.parameters(), strict=True))
    for a, b in zip(batches(trainer), batches(alone), strict=True):
        assert torch.equal(a.indices, b.indices) and torch.equal(a.images, b.images)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_handed_what_it_asked_for_and_nothing_else(dataset, name):
    trainer = build(dataset, name, "resnet14-resnet8")
    seen = {}
    losses = trainer.method.losses

    def spy(student, teacher, batch):
        seen["student"], seen["teacher"] = student, teacher
        return losses(student, teacher, batch)

    trainer.method.losses = spy
    for batch in each_stage(trainer, 1):
        trainer.step(batch)
        for outputs, needs in (
            (seen["student"], trainer.method.student_needs),
            (seen["teacher"], trainer.method.teacher_needs),
        ):
            assert (outputs.second is not None) == (trainer.method.second_view and not needs.nothing)
            for view in (outputs, outputs.second) if outputs.second is not None else (outputs,):
                assert (view.logits is not None) == needs.logits
                assert (view.pooled is not None) == needs.pooled
                assert (view.final is not None) == needs.final
                assert set(view.maps) == needs.maps and set(view.preact) == needs.preact
                assert set(view.norms) == needs.norms and set(view.cams) == needs.cams
        assert not any(t.requires_grad for t in _tensors(seen["teacher"]))


def _tensors(outputs: Outputs | None):
    if outputs is None:
        return []
    norms = [t for pair in outputs.norms.values() for t in pair]
    found = outputs.logits, outputs.pooled, outputs.final, *outputs.maps.values(), *outputs.cams.values(), *norms
    return [t for t in (*found, *outputs.preact.values(), *_tensors(outputs.second)) if t is not None]


@pytest.mark.parametrize("name", METHODS)
def test_gradients_are_finite_under_bf16(dataset, name):
    trainer = build(dataset, name, "resnet14-resnet8", precision="bf16")
    for batch in each_stage(trainer, 3):
        trainer.step(batch)
        gradients = [p.grad for p in [*trainer.network.parameters(), *trainer.method.parameters()]]
        assert any(g is not None for g in gradients)
        assert all(g is None or g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("name", METHODS)
def test_one_batch_is_overfitted(dataset, name):
    # a teacher that knows the labels, so that what is taught and the labels agree
    trainer = build(dataset, name, "resnet14-resnet8", batch=24, schedule=Schedule(0.02, 0.9, False, 0.0, [], 0.1))
    batch = next(batches(trainer))
    distance = batch.labels[:, None] - torch.arange(dataset.classes)
    # its wrong classes are not alike, or DKD of standardised logits can settle with the target's logit the lowest
    sure = 8.0 * (-distance.abs()).exp()
    head = trainer.teacher.head
    with torch.no_grad():  # the first pooled features are the logits
        head.weight.copy_(torch.eye(*head.weight.shape))
        head.bias.zero_()

    def knows(images, needs):
        with torch.no_grad():
            out = networks.Network.forward(trainer.teacher, images, needs)
        pooled = torch.nn.functional.pad(sure, (0, head.in_features - dataset.classes))
        if needs.logits:
            out.logits = sure
        if needs.pooled:
            out.pooled = pooled
        if needs.final:
            out.final = pooled[:, :, None, None].expand_as(out.final)
        out.cams = {m: sure[:, :, None, None].expand_as(cams) for m, cams in out.cams.items()}
        return out

    trainer.teacher.forward = knows
    right = []
    while len(right) < 5 and (not right or right[-1] <= 0.95):  # as strong as some teach, it takes longer
        for _ in range(60):
            trainer.step(batch)
        with torch.no_grad():
            logits = trainer.deployed(batch.images).logits
        right.append((logits.argmax(1) == batch.labels).float().mean().item())
    assert right[-1] > 0.95, right


class Exploding(Method):
    """A method whose second term is infinite from the third step on."""

    def __init__(self):
        super().__init__(None, None)
        self.teacher_needs, self.steps = Needs(), 0

    def losses(self, student, teacher, batch):
        self.steps += 1
        ce = torch.nn.functional.cross_entropy(student.logits, batch.labels)
        return {"ce": Term(ce, 1.0), "big": Term(ce * (math.inf if self.steps >= 3 else 1.0), 0.5)}


@pytest.mark.parametrize(("pre_epochs", "epoch"), [(0, 1), (2, -1)])
def test_divergence_names_the_first_bad_step_and_term(dataset, pre_epochs, epoch):
    trainer = build(dataset, "ce", "resnet14-resnet8")
    trainer.method.losses, trainer.method.pre_epochs = Exploding().losses, pre_epochs
    with pytest.raises(Diverged, match=rf"term big is inf at step 3 \(epoch {epoch}\)"):
        trainer.epoch(epoch, lambda step, steps: None)


def test_a_parameter_may_get_its_first_gradient_after_others(dataset):
    """A fused step, as on a GPU, takes momenta of all of its parameters or of none."""
    trainer = build(dataset, "ce", "resnet14-resnet8")
    for params in trainer.optimiser.param_groups:
        params["fused"], params["foreach"] = True, False
    steps = itertools.count()

    def losses(student, teacher, batch):  # the classifier is trained from the second step on
        reached = student.logits if next(steps) else trainer.network.conv1.weight
        return {"ce": Term(reached.square().mean(), 1.0)}

    trainer.method.losses = losses
    head = trainer.network.head.weight
    for batch, still in zip(batches(trainer), (True, False), strict=False):
        before = head.clone()
        trainer.step(batch)
        assert torch.equal(head, before) == still


def test_logits_that_are_not_finite_end_the_evaluation(dataset):
    network = networks.build("resnet8", dataset.classes)
    network.fc.weight.data[0, 0] = math.nan
    with pytest.raises(Diverged, match="logits are not finite in the evaluation after epoch 7"):
        Evaluator(dataset, None, "cpu", "fp32")(network, 7)


def test_the_rate_falls_after_the_milestones():
    rate = Schedule(0.05, 0.9, False, 5e-4, [150, 180, 210], 0.1).rate
    epochs = (1, 150, 151, 180, 181, 210, 211, 240)
    assert [rate(e) for e in epochs] == pytest.approx([0.05, 0.05, 5e-3, 5e-3, 5e-4, 5e-4, 5e-5, 5e-5])


def test_a_method_that_needs_a_teacher_is_not_trained_without_one(dataset):
    t = build(dataset, "kd", "resnet14-resnet8")
    with pytest.raises(ValueError, match="KD needs a teacher"):
        Trainer(t.network, t.method, None, t.loader, SCHEDULE, device="cpu", precision="fp32")
