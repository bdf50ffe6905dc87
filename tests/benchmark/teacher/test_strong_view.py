"""The second view: what it is, what it depends on, who is handed it, and that a run with it goes on bit for bit."""

import dataclasses
import math

import pytest
import torch

import methods
from benchmark import networks
from benchmark.config import compose as configs
from benchmark.data import datasets as data
from benchmark.data.loader import Loader
from benchmark.grid import plan as grid
from benchmark.grid.progress import Progress
from benchmark.grid.run import execute
from benchmark.networks import Network
from benchmark.runs.tracking import Tracking
from benchmark.teacher.cache import opened
from benchmark.training.seeding import seeded
from benchmark.training.trainer import Schedule, Trainer
from methods.contract import Context, Method, Needs, Term
from tests.benchmark.commands.test_bench import Killed, bench, cells, same, trained
from tests.conftest import write_tiny

SCHEDULE = Schedule(lr=0.05, momentum=0.9, nesterov=False, weight_decay=5e-4, milestones=[], gamma=0.1)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_tiny(folder / "tiny.npz", train=40)
    config = configs.load(["dataset=npz", "dataset.file=tiny.npz", "dataset.size=16", "dataset.padding=2"]).dataset
    return data.load(config, folder)


class TwoViews(Method):
    """Squared distances of logits and pooled features, on both views; keeps what it was handed."""

    second_view = True

    def __init__(self, context=None):
        super().__init__(None, context)
        self.student_needs, self.teacher_needs = Needs.of(logits=True), Needs.of(logits=True, pooled=True)
        self.handed = []

    def losses(self, student, teacher, batch):
        self.handed.append((student, teacher, batch))
        views = ("first", student, teacher), ("second", student.second, teacher.second)
        return {name: Term((s.logits - t.logits).square().mean(), 0.5) for name, s, t in views}


def trainer_of(dataset, method: Method | None = None, seed: int = 0) -> Trainer:
    with seeded("teacher", 0):
        teacher = networks.build("resnet14", dataset.classes).eval().requires_grad_(False)
    with seeded("network", seed):
        student = networks.build("resnet8", dataset.classes)
    shapes = networks.shapes(networks.build("resnet14", dataset.classes), 16)
    method = method or TwoViews(Context(dataset.classes, shapes, shapes, dataset.train.labels, 2))
    loader = Loader(dataset.train, dataset.config, 16, seed, "cpu")
    return Trainer(student, method, teacher, loader, SCHEDULE, device="cpu", precision="fp32")


def no_tick(step, steps):
    pass


def seconds(loader, epoch=1):
    return torch.cat([b.second for b in loader.epoch(epoch, second_view=True)])


def loader_of(dataset, seed=0, **config):
    return Loader(dataset.train, dataclasses.replace(dataset.config, **config), 16, seed, "cpu")


def test_it_depends_on_the_seed_and_the_epoch_alone(dataset):
    direct = seconds(loader_of(dataset), 3)
    through = loader_of(dataset)
    for epoch in (1, 2):
        seconds(through, epoch)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    assert torch.equal(seconds(through, 3), direct)
    assert torch.equal(torch.get_rng_state(), state)
    drawn = []
    for batch in loader_of(dataset).epoch(3, second_view=True):
        torch.rand(7, generator=batch.generator)  # a method's draws
        drawn.append(batch.second)
    assert torch.equal(torch.cat(drawn), direct)
    assert not torch.equal(seconds(through, 4), direct)
    assert not torch.equal(seconds(loader_of(dataset, seed=1), 3), direct)


def test_each_epoch_of_each_seed_has_draws_of_its_own(dataset, monkeypatch):
    # not just another order of the images
    streams = []
    monkeypatch.setattr(data, "rand_augment", lambda images, own: (streams.append(own.initial_seed()), images)[1])
    for seed in (0, 1):
        for epoch in (1, 2):
            list(loader_of(dataset, seed).epoch(epoch, second_view=True))
    assert len(streams) == 4 * 3 and len(set(streams)) == 4


def test_the_first_view_is_the_same_with_it(dataset):
    loader = loader_of(dataset)
    for alone, both in zip(loader.epoch(2), loader.epoch(2, second_view=True), strict=True):
        assert alone.second is None and both.second.shape == both.images.shape
        assert torch.equal(alone.images, both.images) and torch.equal(alone.views, both.views)
        assert torch.equal(alone.indices, both.indices) and torch.equal(alone.labels, both.labels)
        assert torch.equal(torch.rand(3, generator=alone.generator), torch.rand(3, generator=both.generator))
        assert both.second.dtype == torch.float32 and both.second.is_contiguous(memory_format=torch.channels_last)
        assert not torch.equal(both.second, both.images)


def test_below_rand_augment_it_is_a_crop_and_flip_of_its_own_of_the_same_image(dataset, monkeypatch):
    monkeypatch.setattr(data, "rand_augment", lambda images, generator: images)
    loader = loader_of(dataset)
    found, first = [], []
    for batch in loader.epoch(1, second_view=True):
        for image, index, view in zip(batch.second, batch.indices, batch.views, strict=True):
            possible = loader.view(index.repeat(loader.views), torch.arange(loader.views))
            (match,) = (possible == image).flatten(1).all(1).nonzero()[:, 0].tolist()
            found.append(match)
            first.append(view.item())
    assert len(set(found)) > 15  # of 50 views, in 40 draws
    assert sum(a == b for a, b in zip(found, first, strict=True)) < 8  # independent of the first


def test_rand_augment_is_given_the_weak_view_as_bytes(dataset, monkeypatch):
    given = []

    def spy(images, generator):
        given.append(images)
        return 255 - images

    loader = loader_of(dataset)
    monkeypatch.setattr(data, "rand_augment", spy)
    inverted = seconds(loader)
    monkeypatch.setattr(data, "rand_augment", lambda images, generator: images)
    plain = seconds(loader)
    assert all(g.dtype == torch.uint8 for g in given)
    mean, std = (torch.tensor(v)[:, None, None] for v in (dataset.config.mean, dataset.config.std))
    torch.testing.assert_close(inverted * std + mean, 1 - (plain * std + mean))


def test_student_and_teacher_are_handed_both_views(dataset):
    trainer = trainer_of(dataset)
    batch = next(iter(trainer.loader.epoch(1, second_view=True)))
    trainer.network.train()
    with torch.no_grad():  # in training mode a batch's outputs depend on no other batch
        expected = [trainer.network(x, Needs.of(logits=True)).logits for x in (batch.images, batch.second)]
        taught = [trainer.teacher(x, Needs.of(logits=True, pooled=True)) for x in (batch.images, batch.second)]
    _, logits = trainer.step(batch)
    ((student, teacher, handed),) = trainer.method.handed
    assert handed is batch and torch.equal(logits, student.logits)  # the accuracy is that of the first view
    for view, z, t in zip(((student, teacher), (student.second, teacher.second)), expected, taught, strict=True):
        assert torch.equal(view[0].logits, z) and view[0].logits.requires_grad
        assert torch.equal(view[1].logits, t.logits) and torch.equal(view[1].pooled, t.pooled)
        assert not view[1].logits.requires_grad
    assert student.second.second is None and teacher.second.second is None
    assert not torch.equal(expected[0], expected[1]) and not torch.equal(taught[0].logits, taught[1].logits)


def test_each_view_is_a_forward_pass_of_its_own(dataset):
    # batch norm sees the views apart, as in the published code, not as one batch of twice the size
    trainer, sizes = trainer_of(dataset), []
    forward = Network.forward
    trainer.network.forward = lambda x, needs: (sizes.append(len(x)), forward(trainer.network, x, needs))[1]
    trainer.step(next(iter(trainer.loader.epoch(1, second_view=True))))
    assert sizes == [16, 16]


def test_a_method_of_one_view_costs_no_second(dataset):
    class One(TwoViews):
        second_view = False

        def losses(self, student, teacher, batch):
            assert batch.second is None and student.second is None and teacher.second is None
            return {"first": Term((student.logits - teacher.logits).square().mean(), 1.0)}

    trainer = trainer_of(dataset, One(trainer_of(dataset).method.context))
    assert trainer.epoch(1, no_tick)["loss"] > 0


def passes(teacher) -> list[int]:
    """The sizes of the batches that it is run on from now on."""
    sizes = []
    teacher.register_forward_pre_hook(lambda module, given: sizes.append(len(given[0])))
    return sizes


def test_a_cached_first_and_a_live_second_view_agree_with_a_live_teacher(dataset, tmp_path):
    live, cached = trainer_of(dataset), trainer_of(dataset)
    needs = cached.method.teacher_needs
    images = passes(cached.teacher)
    cached.cache, _ = opened(tmp_path, cached.cache_header("a" * 64, "b" * 64), needs, 1.0, cached.taught)
    for _ in range(2):  # the cache is filled on first use, then read
        images.clear()
        lines = [t.epoch(1, no_tick) for t in (live, cached)]
        for key, value in lines[0].items():
            assert lines[1][key] == pytest.approx(value, rel=1e-4), key
    assert images == [16, 16, 8]  # the second epoch computed the second views alone
    for (_, a, batch), (_, b, other) in zip(live.method.handed, cached.method.handed, strict=True):
        assert torch.equal(batch.images, other.images) and torch.equal(batch.second, other.second)
        torch.testing.assert_close(a.logits, b.logits)
        torch.testing.assert_close(a.pooled, b.pooled)
        assert torch.equal(a.second.logits, b.second.logits) and torch.equal(a.second.pooled, b.second.pooled)


def test_two_trainings_with_one_seed_are_alike_and_go_on_alike(dataset):
    whole, first = trainer_of(dataset), trainer_of(dataset)
    lines = [whole.epoch(e, no_tick) for e in (1, 2)]
    assert first.epoch(1, no_tick) == lines[0]
    later = trainer_of(dataset)
    later.load_state(first.state())
    assert later.epoch(2, no_tick) == lines[1]
    pairs = zip(whole.network.state_dict().values(), later.network.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def two_view_methods():
    names = configs.group("method")
    kinds = {n: methods.load(configs.method(n, "", []).implementation) for n in names}
    return [n for n, kind in kinds.items() if kind.second_view]


def test_there_are_two_view_methods():
    assert {"mlld", "mlld_ls", "cskd"} <= set(two_view_methods())


def with_caches(dataset, folder, seed: int = 0, batch: int = 16) -> tuple[Trainer, list[int]]:
    """A trainer with both caches, and the sizes of the batches that its teacher is run on."""
    trainer = trainer_of(dataset, seed=seed)
    images, needs = passes(trainer.teacher), trainer.method.teacher_needs
    trainer.loader = Loader(dataset.train, dataset.config, batch, seed, "cpu")
    headers = trainer.cache_header("a" * 64, "b" * 64), trainer.second_cache_header("a" * 64, "b" * 64)
    trainer.cache, trainer.second_cache = (opened(folder, h, needs, 1.0, trainer.taught)[0] for h in headers)
    return trainer, images


def test_second_views_of_a_seed_are_taught_once(dataset, tmp_path):
    live = trainer_of(dataset)
    expected = [live.epoch(e, no_tick) for e in (1, 2)]
    first, images = with_caches(dataset, tmp_path)
    assert [first.epoch(e, no_tick) for e in (1, 2)] == expected and images
    # another method or run of the seed, and one that is resumed
    for epochs in ((1, 2), (2,)):
        again, images = with_caches(dataset, tmp_path)
        for epoch in epochs:
            again.epoch(epoch, no_tick)
        assert images == []
        for (_, a, _), (_, b, _) in zip(live.method.handed[-3:], again.method.handed[-3:], strict=True):
            torch.testing.assert_close(a.second.logits, b.second.logits)
            torch.testing.assert_close(a.second.pooled, b.second.pooled)


def test_rows_that_several_batches_lack_are_computed_at_once(dataset, tmp_path):
    live = trainer_of(dataset).epoch(1, no_tick)
    trainer, images = with_caches(dataset, tmp_path)
    trainer.together = 2
    assert trainer.epoch(1, no_tick) == live
    assert images == [32, 32, 16, 16]  # first and second views of two batches of 16; of one of 8, filled up
    assert trainer.watch.read().keys() == {"data", "fill", "step"}
    trainer.epoch(1, no_tick)
    trainer.watch.read()
    trainer.epoch(1, no_tick)
    assert len(images) == 4 and trainer.watch.read().keys() == {"data", "step"}  # nothing is missing any more


@pytest.mark.parametrize("change", [{"seed": 1}, {"batch": 8}])
def test_what_draws_other_second_views_has_rows_of_its_own(dataset, tmp_path, change):
    with_caches(dataset, tmp_path)[0].epoch(1, no_tick)
    other, _ = with_caches(dataset, tmp_path, **change)
    assert other.second_cache.share_filled() == 0 and other.cache.share_filled() > 0
    other.epoch(1, no_tick)
    for _, teacher, batch in other.method.handed:
        expected = other.teacher(batch.second, other.method.teacher_needs)
        torch.testing.assert_close(teacher.second.logits, expected.logits)


def test_a_first_stage_is_taught_live(dataset, tmp_path):
    trainer, _ = with_caches(dataset, tmp_path)
    for epoch in (1, 0):
        trainer.epoch(epoch, no_tick)
    _, teacher, batch = trainer.method.handed[-1]
    expected = trainer.teacher(batch.second, trainer.method.teacher_needs)
    assert batch.epoch == 0 and torch.equal(teacher.second.logits, expected.logits)
    assert trainer.second_cache.share_filled() == 0.5  # of two epochs


@pytest.mark.parametrize("cache", ["20", "0"])
def test_a_run_resumes_bit_for_bit(tiny, tmp_path, monkeypatch, cache):
    monkeypatch.setattr("benchmark.grid.run.CHECKPOINT_SHARE", math.inf)  # a checkpoint after every epoch
    overrides = [*tiny, "methods=mlld", "recipe.epochs=3", f"teacher.cache_gb={cache}"]
    plan, _ = bench(overrides)
    whole = trained(cells(plan)["mlld"].run)
    assert cells(plan)["mlld"].run.result["views"] == 2
    kept = list((tmp_path / "runs").glob("**/cache/*/logits.bin"))
    assert len(kept) == (2 if cache == "20" else 0)  # of first and of second views

    again = [*overrides, f"runs={tmp_path / 'again'}"]
    config = configs.load(again)
    plan = grid.plan(config, again)
    tracking = Tracking(config.tracker, plan.settings.runs)
    assert execute(plan.teachers["resnet14"], tracking, Progress(2)).status == "done"
    (cell,) = plan.students("resnet14")

    class Stop(Progress):
        def tick(self, step, steps):
            super().tick(step, steps)
            if cell.run.checkpoint.exists():  # in the middle of the second epoch
                raise Killed

    with pytest.raises(Killed):
        execute(cell, tracking, Stop(1))
    assert torch.load(cell.run.checkpoint, weights_only=True)["epoch"] == 1
    assert execute(cell, tracking, Progress(1)).status == "done"
    assert same(trained(cell.run), whole)
