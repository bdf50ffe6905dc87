"""Teacher outputs of both views, live and cached; the strong view: what it is, what it depends on, who receives it."""

import dataclasses
import math

import pytest
import torch

from benchmark import networks
from benchmark.data import randaugment
from benchmark.data.datasets import normalize
from benchmark.data.loader import STRONG, WEAK, Loader
from benchmark.grid.progress import Progress
from benchmark.grid.run import execute
from benchmark.networks import Network
from benchmark.teacher.outputs import TeacherOutputs, cast_frozen_weights
from benchmark.training.evaluation import autocast
from benchmark.training.seeding import seeded
from benchmark.training.trainer import Trainer
from methods.contract import Context, Method, Needs, Term
from tests.benchmark.training.trainers import SCHEDULE, no_progress, tiny_dataset
from tests.helpers import Killed, bench, plan_of, same, student_runs, tracking_of, trained


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return tiny_dataset(tmp_path_factory.mktemp("data"), train=40)


class TwoViews(Method):
    """Squared distances of the logits on both views; keeps what it received."""

    teacher_needs = Needs(logits=True, pooled=True)
    views = 2

    def __init__(self, context: Context) -> None:
        super().__init__(None, context)
        self.received = []

    def losses(self, student, teacher, batch):
        self.received.append((student, teacher, batch))
        views = [(student.view(i).logits, teacher.view(i).logits) for i in range(self.views)]
        return {f"view{i}": Term((s - t).square().mean(), 0.5) for i, (s, t) in enumerate(views)}


class OneView(TwoViews):
    """The same on the weak view alone."""

    views = 1


def make_trainer(dataset, method: type[TwoViews] = TwoViews, seed: int = 0, batch_size: int = 16) -> Trainer:
    with seeded("teacher", 0):
        teacher = networks.build("resnet14", dataset.classes).eval().requires_grad_(False)
    with seeded("network", seed):
        student = networks.build("resnet8", dataset.classes)
    shapes = networks.output_shapes("resnet14", dataset.classes, 16)
    objective = method(Context(dataset.classes, shapes, shapes, dataset.train.labels, 2))
    loader = Loader(dataset.train, dataset.config, batch_size, seed, "cpu")
    outputs = TeacherOutputs(teacher, objective.requires, loader, device="cpu", precision="fp32")
    return Trainer(student, objective, outputs, SCHEDULE)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("fill_batch", [500, 16])
def test_training_features_are_those_of_unaugmented_images(dataset, precision, fill_batch):
    outputs = make_trainer(dataset).teacher_outputs
    outputs = TeacherOutputs(outputs.teacher, outputs.requires, outputs.loader, device="cpu", precision=precision)
    outputs.fill_batch = fill_batch
    features, labels = outputs.training_features()
    with torch.no_grad(), autocast("cpu", precision):
        images = normalize(dataset.train.images, dataset.config)
        expected = outputs.teacher(images, Needs(pooled=True)).pooled.float()
    assert features.dtype == torch.float32 and not features.requires_grad
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=2e-2 if precision == "bf16" else 1e-5)
    assert torch.equal(labels, dataset.train.labels)
    first, first_labels = outputs.training_features(7)
    torch.testing.assert_close(first, expected[:7], rtol=1e-4, atol=2e-2 if precision == "bf16" else 1e-5)
    assert torch.equal(first_labels, dataset.train.labels[:7])


@pytest.mark.parametrize("name", ["wrn16_2", "resnet8x4", "vgg8", "ResNet50", "MobileNetV2", "ShuffleV1", "ShuffleV2"])
def test_a_teacher_with_bf16_weights_gives_the_outputs_of_autocast(name):
    with seeded("teacher", 0):
        teacher = networks.build(name, 10).eval().requires_grad_(False)
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    needs = Needs(logits=True, pooled=True, maps=range(teacher.stages), class_maps=[2])
    images = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    cast = cast_frozen_weights(teacher, "bf16")
    with torch.no_grad(), autocast("cpu", "bf16"):
        expected, outputs = (network(images, needs) for network in (teacher, cast))
    for kind in ("logits", "pooled"):
        assert torch.equal(getattr(expected, kind), getattr(outputs, kind))
    for kind in ("maps", "class_maps"):
        for key, value in getattr(expected, kind).items():
            assert value.dtype == getattr(outputs, kind)[key].dtype
            assert torch.equal(value, getattr(outputs, kind)[key])
    assert any(p.dtype == torch.bfloat16 for p in cast.parameters())
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    assert cast_frozen_weights(teacher, "fp32") is teacher


# ---------------------------------------------------------------- the strong view


def strong_views(loader, epoch=1):
    return torch.cat([batch.images[STRONG] for batch in loader.epoch(epoch, views=2)])


def loader_of(dataset, seed=0, **config):
    return Loader(dataset.train, dataclasses.replace(dataset.config, **config), 16, seed, "cpu")


def test_strong_views_depend_on_seed_and_epoch_alone(dataset):
    direct = strong_views(loader_of(dataset), 3)
    through = loader_of(dataset)
    for epoch in (1, 2):
        strong_views(through, epoch)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    assert torch.equal(strong_views(through, 3), direct)
    assert torch.equal(torch.get_rng_state(), state)
    drawn = []
    for batch in loader_of(dataset).epoch(3, views=2):
        torch.rand(7, generator=batch.generator)  # a method's draws
        drawn.append(batch.images[STRONG])
    assert torch.equal(torch.cat(drawn), direct)
    assert not torch.equal(strong_views(through, 4), direct)
    assert not torch.equal(strong_views(loader_of(dataset, seed=1), 3), direct)


def test_every_epoch_of_every_seed_draws_its_own_strong_views(dataset, monkeypatch):
    # not just another order of the images
    streams = []
    monkeypatch.setattr(
        randaugment, "rand_augment", lambda images, generator: (streams.append(generator.initial_seed()), images)[1]
    )
    for seed in (0, 1):
        for epoch in (1, 2):
            list(loader_of(dataset, seed).epoch(epoch, views=2))
    assert len(streams) == 4 * 3 and len(set(streams)) == 4


def test_the_weak_view_is_the_same_with_a_strong_view(dataset):
    loader = loader_of(dataset)
    for alone, both in zip(loader.epoch(2), loader.epoch(2, views=2), strict=True):
        assert len(alone.images) == 1 and both.images[STRONG].shape == both.images[WEAK].shape
        assert torch.equal(alone.images[WEAK], both.images[WEAK])
        assert torch.equal(alone.augmentation_ids[WEAK], both.augmentation_ids[WEAK])
        assert torch.equal(alone.indices, both.indices) and torch.equal(alone.labels, both.labels)
        assert torch.equal(torch.rand(3, generator=alone.generator), torch.rand(3, generator=both.generator))
        strong = both.images[STRONG]
        assert strong.dtype == torch.float32 and strong.is_contiguous(memory_format=torch.channels_last)
        assert not torch.equal(strong, both.images[WEAK])


def test_a_strong_view_is_an_independent_crop_and_flip_before_rand_augment(dataset, monkeypatch):
    monkeypatch.setattr(randaugment, "rand_augment", lambda images, generator: images)
    loader = loader_of(dataset)
    strong, weak = [], []
    for batch in loader.epoch(1, views=2):
        for image, index, view in zip(batch.images[STRONG], batch.indices, batch.augmentation_ids[WEAK], strict=True):
            possible = loader.augmented(index.repeat(loader.outcomes), torch.arange(loader.outcomes))
            (match,) = (possible == image).flatten(1).all(1).nonzero()[:, 0].tolist()
            strong.append(match)
            weak.append(view.item())
    assert len(set(strong)) > 15  # of 50 views, in 40 draws
    assert sum(a == b for a, b in zip(strong, weak, strict=True)) < 8  # independent of the weak view


def test_rand_augment_receives_bytes(dataset, monkeypatch):
    inputs = []

    def spy(images, generator):
        inputs.append(images)
        return 255 - images

    loader = loader_of(dataset)
    monkeypatch.setattr(randaugment, "rand_augment", spy)
    inverted = strong_views(loader)
    monkeypatch.setattr(randaugment, "rand_augment", lambda images, generator: images)
    plain = strong_views(loader)
    assert all(g.dtype == torch.uint8 for g in inputs)
    mean, std = (torch.tensor(v)[:, None, None] for v in (dataset.config.mean, dataset.config.std))
    torch.testing.assert_close(inverted * std + mean, 1 - (plain * std + mean))


def test_student_and_teacher_outputs_cover_both_views(dataset):
    trainer = make_trainer(dataset)
    batch = next(iter(trainer.loader.epoch(1, views=2)))
    trainer.network.train()
    needs = trainer.method.requires.teacher
    with torch.no_grad():  # in training mode a batch's outputs depend on no other batch
        expected = [trainer.network(x, Needs(logits=True)).logits for x in batch.images]
        taught = [trainer.teacher_outputs.teacher(x, needs) for x in batch.images]
    logits = trainer.step(batch).logits
    ((student, teacher, received),) = trainer.method.received
    assert received is batch and torch.equal(logits, student.logits), "accuracy is that of the weak view"
    for view in (WEAK, STRONG):
        assert torch.equal(student.view(view).logits, expected[view]) and student.view(view).logits.requires_grad
        assert torch.equal(teacher.view(view).logits, taught[view].logits)
        assert torch.equal(teacher.view(view).pooled, taught[view].pooled)
        assert not teacher.view(view).logits.requires_grad
    assert not torch.equal(expected[0], expected[1]) and not torch.equal(taught[0].logits, taught[1].logits)


def test_each_view_is_a_forward_pass_of_its_own(dataset):
    """Batch norm sees the views separately, as in the published code, not as one batch of twice the size."""
    trainer, sizes = make_trainer(dataset), []
    forward = Network.forward
    trainer.network.forward = lambda x, needs: (sizes.append(len(x)), forward(trainer.network, x, needs))[1]
    trainer.step(next(iter(trainer.loader.epoch(1, views=2))))
    assert sizes == [16, 16]


def test_a_method_of_one_view_costs_no_second(dataset):
    trainer = make_trainer(dataset, OneView)
    assert trainer.epoch(1, no_progress)["loss"] > 0
    for student, teacher, batch in trainer.method.received:
        assert len(batch.images) == 1 and not student.further_views and not teacher.further_views


# ---------------------------------------------------------------- caches


def record_passes(teacher) -> list[int]:
    """The batch sizes of the teacher's forward passes from now on."""
    sizes = []
    teacher.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    return sizes


def with_caches(dataset, folder, seed: int = 0, batch_size: int = 16) -> tuple[Trainer, list[int]]:
    """A trainer with a cache per view, and the batch sizes of its teacher's forward passes."""
    trainer = make_trainer(dataset, seed=seed, batch_size=batch_size)
    outputs = trainer.teacher_outputs
    outputs.open_caches(folder, trainer.method.context, "a" * 64, "b" * 64, 1.0)
    return trainer, record_passes(outputs.teacher)


def test_a_cached_weak_and_a_live_strong_view_agree_with_a_live_teacher(dataset, tmp_path):
    live = make_trainer(dataset)
    cached, images = with_caches(dataset, tmp_path)
    cached.teacher_outputs.caches[STRONG] = None
    for _ in range(2):  # the cache is filled on first use, then read
        images.clear()
        lines = [t.epoch(1, no_progress) for t in (live, cached)]
        for key, value in lines[0].items():
            assert lines[1][key] == pytest.approx(value, rel=1e-4), key
    assert images == [16, 16, 8], "the second epoch computes the strong views alone"
    for (_, a, batch), (_, b, other) in zip(live.method.received, cached.method.received, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(batch.images, other.images, strict=True))
        torch.testing.assert_close(a.logits, b.logits)
        torch.testing.assert_close(a.pooled, b.pooled)
        assert torch.equal(a.view(STRONG).logits, b.view(STRONG).logits)


def test_strong_views_of_a_seed_are_computed_once(dataset, tmp_path):
    live = make_trainer(dataset)
    expected = [live.epoch(e, no_progress) for e in (1, 2)]
    first, images = with_caches(dataset, tmp_path)
    assert [first.epoch(e, no_progress) for e in (1, 2)] == expected and images
    for epochs in ((1, 2), (2,)):  # another run of the seed, and a resumed one
        again, images = with_caches(dataset, tmp_path)
        for epoch in epochs:
            again.epoch(epoch, no_progress)
        assert images == []
        for (_, a, _), (_, b, _) in zip(live.method.received[-3:], again.method.received[-3:], strict=True):
            torch.testing.assert_close(a.view(STRONG).logits, b.view(STRONG).logits)
            torch.testing.assert_close(a.view(STRONG).pooled, b.view(STRONG).pooled)


def test_missing_rows_of_several_batches_are_computed_at_once(dataset, tmp_path):
    live = make_trainer(dataset).epoch(1, no_progress)
    trainer, images = with_caches(dataset, tmp_path)
    trainer.teacher_outputs.batches_at_once = 2
    assert trainer.epoch(1, no_progress) == live
    assert images == [32, 32, 16, 16]  # both views of two batches of 16; of one of 8, padded
    assert trainer.watch.read().keys() == {"data", "fill", "step"}
    trainer.epoch(1, no_progress)
    trainer.watch.read()
    trainer.epoch(1, no_progress)
    assert len(images) == 4 and trainer.watch.read().keys() == {"data", "step"}, "no row is missing any more"


@pytest.mark.parametrize("change", [{"seed": 1}, {"batch_size": 8}])
def test_other_strong_views_have_rows_of_their_own(dataset, tmp_path, change):
    with_caches(dataset, tmp_path)[0].epoch(1, no_progress)
    other, _ = with_caches(dataset, tmp_path, **change)
    weak, strong = other.teacher_outputs.caches
    assert strong.share_filled() == 0 and weak.share_filled() > 0
    other.epoch(1, no_progress)
    for _, teacher, batch in other.method.received:
        expected = other.teacher_outputs.teacher(batch.images[STRONG], other.method.requires.teacher)
        torch.testing.assert_close(teacher.view(STRONG).logits, expected.logits)


def test_strong_views_of_an_initialization_stage_are_live(dataset, tmp_path):
    trainer, _ = with_caches(dataset, tmp_path)
    for epoch in (1, 0):
        trainer.epoch(epoch, no_progress)
    _, teacher, batch = trainer.method.received[-1]
    expected = trainer.teacher_outputs.teacher(batch.images[STRONG], trainer.method.requires.teacher)
    assert batch.epoch == 0 and torch.equal(teacher.view(STRONG).logits, expected.logits)
    assert trainer.teacher_outputs.caches[STRONG].share_filled() == 0.5, "one of two epochs"


# ---------------------------------------------------------------- whole runs


@pytest.mark.parametrize("cache_gb", ["20", "0"])
def test_a_two_view_run_resumes_bit_for_bit(tiny, tmp_path, monkeypatch, cache_gb):
    monkeypatch.setattr("benchmark.grid.run.CHECKPOINT_SHARE", math.inf)  # a checkpoint after every epoch
    overrides = [*tiny, "methods=mlld", "recipe.epochs=3", f"teacher.cache_gb={cache_gb}"]
    plan, _ = bench(overrides)
    folder = student_runs(plan)["mlld"].folder
    whole = trained(folder)
    assert folder.record.views == 2
    rows = list((tmp_path / "runs").glob("**/cache/*/logits.bin"))
    assert len(rows) == (2 if cache_gb == "20" else 0), "one cache per view"

    plan = plan_of([*overrides, f"runs={tmp_path / 'again'}"])
    tracking = tracking_of(plan)
    assert execute(plan.teachers["resnet14"], tracking, Progress(2)).status == "done"
    (run,) = plan.students("resnet14")

    class KilledInSecondEpoch(Progress):
        def step(self, step, steps):
            super().step(step, steps)
            if run.folder.checkpoint.exists():
                raise Killed

    with pytest.raises(Killed):
        execute(run, tracking, KilledInSecondEpoch(1))
    assert torch.load(run.folder.checkpoint, weights_only=True)["epoch"] == 1
    assert execute(run, tracking, Progress(1)).status == "done"
    assert same(trained(run.folder), whole)
