"""Data sets, their refusals, and training batches."""

import dataclasses
import hashlib
import itertools
import os
import pickle
import random
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from torch import nn

from benchmark.config.compose import CONF, check_limits
from benchmark.config.schema import DATASETS, DatasetConfig
from benchmark.data import augmentation as augment
from benchmark.data import sources
from benchmark.data.datasets import Split, load, normalize
from benchmark.data.loader import Loader
from benchmark.errors import UserError
from benchmark.training.seeding import seed_for, seeded

NOWHERE = Path("no-such-folder")


def config(name: str, /, **changes) -> DatasetConfig:
    """The config of `conf/dataset/<name>.yaml` with some keys changed."""
    tree = OmegaConf.load(CONF / "dataset" / f"{name}.yaml")
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(DatasetConfig), tree, changes))


def arrays(classes: int = 3, train: int = 8, test: int = 4, side: int = 16) -> dict[str, np.ndarray]:
    """The content of a good `.npz`: `train` and `test` random images of each class."""
    rng = np.random.default_rng(0)
    found = {}
    for split, each in (("train", train), ("test", test)):
        found[f"x_{split}"] = rng.integers(0, 256, (classes * each, side, side, 3), dtype=np.uint8)
        found[f"y_{split}"] = np.tile(np.arange(classes), each)
    return found


def save(folder: Path, found: dict[str, np.ndarray], name: str = "mine.npz") -> Path:
    np.savez(folder / name, **found)
    return folder / name


def load_npz(folder: Path, found: dict[str, np.ndarray], **changes):
    save(folder, found)
    return load(config("npz", file="mine.npz", size=16, **changes), folder)


def refusal(name: str, folder: Path, **changes) -> str:
    """The one line with which a data set is refused."""
    with pytest.raises(UserError) as caught:
        load(config(name, **changes), folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


def naive_view(image: np.ndarray, view: int, padding: int, flip: bool) -> np.ndarray:
    """One view of an image [3, H, W], pixel by pixel."""
    height, width = image.shape[1:]
    mirrored = flip and view % 2 == 1
    corner = view // 2 if flip else view
    dy, dx = corner // (2 * padding + 1), corner % (2 * padding + 1)
    shown = np.zeros_like(image)
    for c, y, x in itertools.product(range(3), range(height), range(width)):
        row = y + dy - padding
        column = (width - 1 - x if mirrored else x) + dx - padding
        if 0 <= row < height and 0 <= column < width:
            shown[c, y, x] = image[c, row, column]
    return shown


def raw_bytes(images: torch.Tensor, of: DatasetConfig) -> np.ndarray:
    """Normalised images back as bytes."""
    mean, std = (np.array(v)[None, :, None, None] for v in (of.mean, of.std))
    return np.rint((images.double().numpy() * std + mean) * 255).astype(np.uint8)


def epochs_of(loader: Loader, *epochs: int) -> list[tuple[list[int], list[int]]]:
    """For each epoch, the indices and the views of all its samples."""
    found = []
    for e in epochs:
        batches = list(loader.epoch(e))
        found.append(
            tuple([i for b in batches for i in t(b).tolist()] for t in (lambda b: b.indices, lambda b: b.views))
        )
    return found


@pytest.fixture(scope="module")
def digits():
    return load(config("digits"), NOWHERE)


# Configs


@pytest.mark.parametrize("name", DATASETS)
def test_yaml_gives_every_key_within_its_limits(name):
    tree = OmegaConf.load(CONF / "dataset" / f"{name}.yaml")
    assert set(tree) == {f.name for f in dataclasses.fields(DatasetConfig)}
    assert tree.name == name
    check_limits(config(name))


@pytest.mark.parametrize(
    "changes",
    [{"validation": 1.0}, {"validation": -0.1}, {"size": 15}, {"padding": -1}, {"std": [1, 0, 1]}, {"name": "digit"}],
)
def test_limits_are_checked(changes):
    with pytest.raises(UserError, match=next(iter(changes))):
        check_limits(config("digits", **changes))


# Seeds


def test_seed_is_the_same_everywhere():
    assert seed_for("order", 0, 1) == 6948624756589500242
    assert seed_for("method", 7) == 8481100775424865864


def test_seeds_differ_by_purpose_and_parts():
    seeds = [seed_for(p, *parts) for p in ("order", "views") for parts in ((), (0,), (1,), (0, 1), (1, 0), (10,))]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= s < 2**63 for s in seeds)


def test_seeded_builds_alike_and_restores_the_global_state():
    before = torch.get_rng_state()
    built = []
    for purpose, seed in (("network", 1), ("network", 1), ("network", 2), ("method", 1)):
        with seeded(purpose, seed):
            built.append(nn.Linear(4, 4).weight.detach())
    with pytest.raises(ZeroDivisionError), seeded("network", 1):
        1 / 0  # noqa: B018
    assert torch.equal(built[0], built[1])
    assert not torch.equal(built[0], built[2]) and not torch.equal(built[0], built[3])
    assert torch.equal(torch.get_rng_state(), before)


# Augmentation


@pytest.mark.parametrize(
    ("padding", "flip", "views"), [(4, True, 162), (2, False, 25), (1, True, 18), (0, True, 2), (0, False, 1)]
)
def test_every_view_equals_a_pixel_loop(padding, flip, views):
    random_ = torch.Generator().manual_seed(0)
    images = torch.randint(1, 256, (3, 3, 7, 7), dtype=torch.uint8, generator=random_)
    assert augment.count_views(padding, flip) == views
    all_views = torch.arange(views).repeat_interleave(3)
    indices = torch.tensor([2, 0, 1]).repeat(views)
    shown = augment.augment(augment.pad(images, padding), indices, all_views, padding, flip)
    naive = [
        naive_view(images[i].numpy(), v, padding, flip)
        for i, v in zip(indices.tolist(), all_views.tolist(), strict=True)
    ]
    assert np.array_equal(shown.numpy(), np.stack(naive))
    assert len({v.tobytes() for v in naive[::3]}) == views  # no two views of an image are alike


def test_normalise_is_the_formula_in_channels_last():
    images = torch.randint(0, 256, (5, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    of = config("cifar100")
    found = normalize(images, of)
    mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (of.mean, of.std))
    torch.testing.assert_close(found.double(), (images.double() / 255 - mean) / std, atol=1e-6, rtol=0)
    assert found.dtype == torch.float32
    assert found.is_contiguous(memory_format=torch.channels_last)


# Training batches


@pytest.mark.parametrize(("padding", "flip"), [(2, False), (4, True)])
def test_batches_show_the_images_they_name(digits, padding, flip):
    of = dataclasses.replace(digits.config, padding=padding, flip=flip)
    loader = Loader(digits.train, of, 32, 0, "cpu")
    seen = []
    for batch in loader.epoch(5):
        assert batch.epoch == 5
        assert batch.images.dtype == torch.float32 and batch.labels.dtype == torch.int64
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(batch.labels, digits.train.labels[batch.indices])
        for image, i, v in list(zip(raw_bytes(batch.images, of), batch.indices, batch.views, strict=True))[:3]:
            assert np.array_equal(image, naive_view(digits.train.images[i].numpy(), int(v), padding, flip))
        seen += batch.indices.tolist()
    assert sorted(seen) == list(range(200))


def test_all_views_come_up_about_equally_often(digits):
    loader = Loader(digits.train, digits.config, 64, 0, "cpu")
    views = [v for _, vs in epochs_of(loader, *range(1, 11)) for v in vs]
    counts = np.bincount(views, minlength=loader.views)
    assert len(counts) == loader.views == 25
    assert counts.min() > 40 and counts.max() < 120  # 2,000 draws: 80 each, with a deviation of 9


def test_epochs_and_seeds_differ_and_the_same_seed_repeats(digits):
    first, second = epochs_of(Loader(digits.train, digits.config, 32, 0, "cpu"), 1, 2)
    again = epochs_of(Loader(digits.train, digits.config, 32, 0, "cpu"), 1, 2)
    (other,) = epochs_of(Loader(digits.train, digits.config, 32, 1, "cpu"), 1)
    assert [first, second] == again
    for a, b in ((first, second), (first, other)):
        assert a[0] != b[0] and a[1] != b[1]


def test_an_epoch_does_not_depend_on_those_before(digits):
    through = Loader(digits.train, digits.config, 32, 0, "cpu")
    epochs_of(through, 1, 2)
    direct = Loader(digits.train, digits.config, 32, 0, "cpu")
    for a, b in zip(through.epoch(3), direct.epoch(3), strict=True):
        assert torch.equal(a.images, b.images) and torch.equal(a.indices, b.indices)
        assert torch.equal(torch.rand(3, generator=a.generator), torch.rand(3, generator=b.generator))


def test_a_methods_draws_change_no_batch_and_differ_by_epoch(digits):
    drawing = Loader(digits.train, digits.config, 32, 0, "cpu")
    quiet = Loader(digits.train, digits.config, 32, 0, "cpu")
    drawn = []
    for epoch in (1, 2):
        for a, b in zip(drawing.epoch(epoch), quiet.epoch(epoch), strict=True):
            drawn.append(torch.rand(7, generator=a.generator))
            assert torch.equal(a.images, b.images) and torch.equal(a.views, b.views)
    assert len({tuple(d.tolist()) for d in drawn}) == len(drawn)


def test_order_and_views_do_not_depend_on_the_batch_size(digits):
    small, large = (Loader(digits.train, digits.config, n, 0, "cpu") for n in (32, 50))
    assert epochs_of(small, 1) == epochs_of(large, 1)


@pytest.mark.parametrize(
    ("images", "batch_size", "sizes"),
    [(20, 8, [8, 8, 4]), (18, 8, [8, 8, 2]), (17, 8, [8, 8]), (16, 8, [8, 8]), (5, 8, [5]), (2, 2, [2])],
)
def test_last_batch_is_kept_unless_it_is_a_single_image(digits, images, batch_size, sizes):
    split = Split(digits.train.images[:images], digits.train.labels[:images])
    loader = Loader(split, digits.config, batch_size, 0, "cpu")
    assert [len(b.labels) for b in loader.epoch(1)] == sizes
    assert len(loader) == len(sizes)


@pytest.mark.parametrize(("images", "batch_size"), [(1, 8), (20, 1)])
def test_no_batch_of_two_is_an_error(digits, images, batch_size):
    with pytest.raises(ValueError, match="no batch of two"):
        Loader(Split(digits.train.images[:images], digits.train.labels[:images]), digits.config, batch_size, 0, "cpu")


def test_nothing_draws_from_a_global_generator():
    def states():
        return torch.get_rng_state().tolist(), repr(np.random.get_state()), random.getstate()

    before = states()
    dataset = load(config("digits", validation=0.2), NOWHERE)
    list(Loader(dataset.train, dataset.config, 32, 0, "cpu").epoch(1))
    assert states() == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cpu_and_cuda_see_the_same_batches(digits):
    of = dataclasses.replace(digits.config, flip=True)
    cpu, cuda = (Loader(digits.train, of, 32, 0, d) for d in ("cpu", "cuda"))
    for a, b in zip(cpu.epoch(1), cuda.epoch(1), strict=True):
        assert b.images.is_cuda and b.generator.device.type == "cuda"
        assert torch.equal(a.indices, b.indices.cpu()) and torch.equal(a.views, b.views.cpu())
        torch.testing.assert_close(a.images, b.images.cpu())


# Digits


def test_digits_are_a_small_stratified_training_split_and_a_fixed_test_split(digits):
    assert digits.train.images.shape == (200, 3, 16, 16) and digits.test.images.shape == (1000, 3, 16, 16)
    assert digits.val is None and digits.classes == 10 and digits.class_names == tuple("0123456789")
    assert digits.train.images.dtype == torch.uint8 and digits.train.labels.dtype == torch.int64
    train, test = digits.train.labels.bincount(), digits.test.labels.bincount()
    assert set(train.tolist()) <= {19, 20, 21}
    assert set(test.tolist()) <= set(range(96, 103))  # the shares of the 1,797, from 174 to 183 a class
    pictures = [{i.numpy().tobytes() for i in s.images} for s in (digits.train, digits.test)]
    assert not pictures[0] & pictures[1]


def test_digits_are_the_originals_enlarged(digits):
    from sklearn.datasets import load_digits

    originals = load_digits()
    # bilinear doubling without aligned corners: 3/4 of the nearer pixel and 1/4 of the next, borders repeated
    edge = np.pad(originals.images * 255 / 16, ((0, 0), (1, 1), (1, 1)), mode="edge")
    rows = np.stack([0.75 * edge[:, 1:-1] + 0.25 * edge[:, :-2], 0.75 * edge[:, 1:-1] + 0.25 * edge[:, 2:]], 2).reshape(
        -1, 16, 10
    )
    both = np.stack([0.75 * rows[..., 1:-1] + 0.25 * rows[..., :-2], 0.75 * rows[..., 1:-1] + 0.25 * rows[..., 2:]], 3)
    large = both.reshape(-1, 16, 16)
    for split in (digits.train, digits.test):
        for image, label in zip(split.images.numpy()[:50], split.labels.tolist(), strict=False):
            assert (image == image[:1]).all()
            distance = np.abs(large - image[0].astype(float)).max(axis=(1, 2))
            assert distance.min() <= 1  # rounded twice
            assert label in originals.target[distance <= 1]


def test_digits_test_split_stays_whatever_is_trained_on(digits):
    other = load(config("digits", split_seed=1, train_size=None, validation=0.2), NOWHERE)
    assert torch.equal(other.test.images, digits.test.images)
    assert len(other.train.labels) + len(other.val.labels) == 797
    reseeded = load(config("digits", split_seed=1), NOWHERE)
    assert not torch.equal(reseeded.train.images, digits.train.images)


def test_digits_can_be_larger():
    dataset = load(config("digits", size=32), NOWHERE)
    assert dataset.train.images.shape == (200, 3, 32, 32)
    assert dataset.train.images.is_contiguous(memory_format=torch.channels_last)


def test_mean_and_std_are_those_of_the_training_images(digits):
    images = digits.train.images.numpy().astype(float) / 255
    assert digits.config.mean == pytest.approx(images.mean((0, 2, 3)), abs=6e-5)
    assert digits.config.std == pytest.approx(images.std((0, 2, 3)), abs=6e-5)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"train_size": 798}, "train_size is 798.*797"),
        ({"train_size": 5}, "training split of 5 images has none of class"),
        ({"test_size": None}, "test_size"),
        ({"test_size": 1797}, "test_size"),
        ({"size": 8}, "at least 16 pixels"),
        ({"padding": 17}, "dataset.padding is 17: images are 16 pixels wide"),
        ({"mean": [0.5]}, "mean has 1 numbers"),
        ({"file": "mine.npz"}, "dataset.file is read by dataset=npz only"),
        ({"name": "digit"}, "unknown dataset 'digit'; did you mean digits"),
        ({"validation": 0.02}, "validation split of 4 images has none of class"),
        ({"validation": 0.001}, "no image of 200"),
        ({"validation": 0.99}, "training split of 2 images has none of class"),
    ],
)
def test_digits_refusals(changes, says):
    with pytest.raises(UserError, match=says):
        load(config("digits", **changes), NOWHERE)


# Validation split


def test_validation_split_is_disjoint_stratified_and_seeded(tmp_path):
    found = arrays(classes=4, train=30)
    found["y_train"] = np.repeat([0, 1, 2, 3], [60, 30, 20, 10])
    whole = load_npz(tmp_path, found)
    dataset = load_npz(tmp_path, found, validation=0.2)
    again = load_npz(tmp_path, found, validation=0.2)
    other = load_npz(tmp_path, found, validation=0.2, split_seed=1)
    assert dataset.val.labels.bincount().tolist() == [12, 6, 4, 2]
    assert dataset.train.labels.bincount().tolist() == [48, 24, 16, 8]
    everything = sorted(i.numpy().tobytes() for i in whole.train.images)
    assert sorted(i.numpy().tobytes() for s in (dataset.train, dataset.val) for i in s.images) == everything
    assert torch.equal(dataset.val.images, again.val.images) and dataset.fingerprint == again.fingerprint
    assert not torch.equal(dataset.val.images, other.val.images) and dataset.fingerprint != other.fingerprint
    assert torch.equal(dataset.test.images, whole.test.images)


def test_images_keep_their_labels_through_the_splits(tmp_path):
    found = arrays(train=40)
    found["x_train"][:, 0, 0, 0] = found["y_train"]
    dataset = load_npz(tmp_path, found, validation=0.25, train_size=60)
    assert len(dataset.train.labels) == 45 and len(dataset.val.labels) == 15
    for split in (dataset.train, dataset.val):
        assert torch.equal(split.images[:, 0, 0, 0].long(), split.labels)
    for batch in Loader(dataset.train, dataset.config, 8, 0, "cpu").epoch(1):
        assert torch.equal(batch.labels, dataset.train.images[batch.indices, 0, 0, 0].long())


# A file of one's own


def test_npz_is_read_as_it_is(tmp_path):
    found = arrays()
    dataset = load_npz(tmp_path, found | {"class_names": np.array(["ant", "bee", "cat"])})
    assert dataset.class_names == ("ant", "bee", "cat") and dataset.classes == 3
    assert np.array_equal(dataset.train.images.numpy(), found["x_train"].transpose(0, 3, 1, 2))
    assert np.array_equal(dataset.test.images.numpy(), found["x_test"].transpose(0, 3, 1, 2))
    assert dataset.train.labels.tolist() == found["y_train"].tolist()
    assert dataset.train.images.is_contiguous(memory_format=torch.channels_last)
    absolute = load(config("npz", file=str(tmp_path / "mine.npz"), size=16), NOWHERE)
    assert absolute.fingerprint == dataset.fingerprint


def test_grey_images_get_three_equal_channels(tmp_path):
    found = arrays()
    grey = found | {k: found[k][..., 0] for k in ("x_train", "x_test")}
    dataset = load_npz(tmp_path, grey)
    assert np.array_equal(dataset.train.images.numpy(), np.stack([grey["x_train"]] * 3, axis=1))


def test_images_of_another_size_are_resized(tmp_path):
    found = arrays(side=40)
    found["x_train"][:] = np.array([10, 100, 200])
    dataset = load_npz(tmp_path, found, std=[1, 1, 1])
    assert dataset.train.images.shape[2:] == dataset.test.images.shape[2:] == (16, 16)
    assert (dataset.train.images == torch.tensor([10, 100, 200])[:, None, None]).all()


def test_images_of_one_colour_need_a_std(tmp_path):
    found = arrays()
    found["x_train"][:] = np.array([10, 100, 200])
    with pytest.raises(UserError, match=r"mine.npz: a channel is the same in all pixels"):
        load_npz(tmp_path, found)
    mean = load_npz(tmp_path, found, std=[1, 1, 1]).config.mean
    assert mean == pytest.approx([10 / 255, 100 / 255, 200 / 255], abs=6e-5)


def test_fingerprint_sees_every_pixel_and_label(tmp_path):
    found = arrays()
    seen = {load_npz(tmp_path, found).fingerprint}
    for name in sources.ARRAYS:
        changed = {k: v.copy() for k, v in found.items()}
        if name[0] == "x":
            changed[name][1, 2, 3, 1] ^= 1
        else:
            changed[name][:2] = changed[name][1::-1]
        seen.add(load_npz(tmp_path, changed).fingerprint)
    seen.add(load_npz(tmp_path, found, test_size=6).fingerprint)
    seen.add(load_npz(tmp_path, found, train_size=12).fingerprint)
    assert len(seen) == 7
    assert load_npz(tmp_path, {k: v for k, v in reversed(found.items())}).fingerprint in seen


def without(name):
    return lambda a: a.pop(name)


def put(name, make):
    return lambda a: a.__setitem__(name, make(a[name]) if name in a else make(None))


def set_label(name, value):
    def change(a):
        a[name] = a[name].copy()
        a[name][0] = value

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (without("y_test"), "lacks y_test: it holds x_train, y_train, x_test"),
        (put("x_train", lambda x: x.astype(object)), "x_train is an array of Python objects"),
        (put("y_train", lambda y: y.astype(object)), "y_train is an array of Python objects"),
        (put("class_names", lambda _: np.array(["a", "b", "c"], object)), "class_names is an array of Python objects"),
        (put("x_train", lambda x: x.reshape(len(x), -1)), r"x_train has shape \(24, 768\): \[N, H, H, 3\]"),
        (put("x_train", lambda x: x[..., :2]), r"x_train has shape \(24, 16, 16, 2\)"),
        (put("x_test", lambda x: x.transpose(0, 3, 1, 2)), r"x_test has shape .* wanted \(channels come last\)"),
        (put("x_train", lambda x: x[:, :, :12]), "x_train has images of 16 × 12 pixels: square"),
        (put("x_test", lambda x: x[:, :12, :12]), "x_train are .*x_test.*same shape"),
        (put("y_train", lambda y: y[:-1]), "y_train has 23 labels, but x_train has 24 images"),
        (put("y_test", lambda y: y[:, None]), r"y_test has shape \(12, 1\)"),
        (put("x_train", lambda x: x / np.float32(255)), "x_train is float32 from 0 to 1: uint8 from 0 to 255"),
        (put("x_test", lambda x: x.astype(np.int64) + 1), r"x_test is int64 from \d+ to 256: uint8 from 0 to 255"),
        (put("y_train", lambda y: y.astype(float)), "y_train is float64: whole numbers"),
        (put("y_train", lambda y: y.astype(str)), "y_train is <U21: whole numbers"),
        (set_label("y_train", -1), "y_train holds the label -1: labels count from 0"),
        (set_label("y_test", 3), "y_test holds the label 3, but y_train has classes 0 to 2"),
        (set_label("y_train", 9), "class 3 has no training image"),
        (set_label("y_train", 10**15), "class 3 has no training image"),
        (put("y_train", lambda y: y + 1), "class 0 has no training image"),
        (put("y_train", lambda y: y * 0), "y_test holds the label 2"),
        (lambda a: a.update(y_train=a["y_train"] * 0, y_test=a["y_test"] * 0), "all training images are of one class"),
        (put("class_names", lambda _: np.array(["a", "b"])), "label 2, but class_names has classes 0 to 1"),
        (put("class_names", lambda _: np.array(["a", "b", "c", "d"])), r"class 3 \(d\) has no training image"),
        (put("class_names", lambda _: np.arange(3)), "class_names is int64"),
        (lambda a: a.update(x_test=a["x_test"][:0], y_test=a["y_test"][:0]), "x_test is empty"),
        (lambda a: a.update(x_train=a["x_train"][:0], y_train=a["y_train"][:0]), "x_train is empty"),
    ],
)  # fmt: skip
def test_bad_npz_is_refused_by_name(tmp_path, change, says):
    found = arrays()
    change(found)
    path = save(tmp_path, found)
    with pytest.raises(UserError, match=says) as caught:
        load(config("npz", file="mine.npz", size=16), tmp_path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def damage_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[5000] ^= 0xFF  # within x_train
    path.write_bytes(content)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (damage_half, "truncated or corrupt"),
        (damage_byte, "x_train is truncated or corrupt"),
        (lambda p: p.write_bytes(b""), "truncated or corrupt"),
        (lambda p: p.write_text("hello\n" * 100), "truncated or corrupt"),
        (lambda p: p.write_bytes(pickle.dumps({"x_train": 1})), "truncated or corrupt"),
        (lambda p: np.save(p.open("wb"), np.zeros(3)), "single array"),
        (lambda p: p.unlink(), "does not exist: put an .npz file with x_train"),
        (lambda p: (p.unlink(), p.mkdir()), "is a folder"),
    ],
)
def test_damaged_npz_is_refused_by_name(tmp_path, damage, says, compressed):
    path = tmp_path / "mine.npz"
    (np.savez_compressed if compressed else np.savez)(path, **arrays())
    damage(path)
    message = refusal("npz", tmp_path, file="mine.npz", size=16)
    assert says in message and str(path) in message


def test_npz_and_imagefolder_ask_for_their_place(tmp_path):
    assert "needs dataset.file" in refusal("npz", tmp_path)
    assert "needs dataset.root" in refusal("imagefolder", tmp_path)


# CIFAR


@pytest.fixture
def small_cifar(monkeypatch):
    """CIFAR-100 with two training images and one test image per class."""
    known = dataclasses.replace(sources.CIFAR["cifar100"], train=2, test=1)
    monkeypatch.setitem(sources.CIFAR, "cifar100", known)
    return arrays(classes=100, train=2, test=1, side=32)


@pytest.fixture
def offline(monkeypatch):
    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


def test_torchvisions_files_and_the_npz_give_the_same_data(tmp_path, small_cifar, offline, monkeypatch):
    (tmp_path / "npz").mkdir()
    names = [f"class {i}" for i in range(100)]
    save(tmp_path / "npz", small_cifar | {"class_names": np.array(names)}, "cifar100.npz")
    folder = tmp_path / "torchvision" / "cifar-100-python"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        rows = small_cifar[f"x_{split}"].transpose(0, 3, 1, 2).reshape(-1, 3072)  # the archive's layout
        entry = {"data": rows, "fine_labels": small_cifar[f"y_{split}"].tolist()}
        (folder / split).write_bytes(pickle.dumps(entry))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": names}))
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *args: True)

    npz = load(config("cifar100"), tmp_path / "npz")
    torchvision = load(config("cifar100"), tmp_path / "torchvision")
    assert np.array_equal(npz.train.images.numpy(), small_cifar["x_train"].transpose(0, 3, 1, 2))
    assert torchvision.fingerprint == npz.fingerprint
    assert torchvision.class_names == npz.class_names == tuple(names)
    assert npz.config == config("cifar100")  # the field's mean and std


@pytest.mark.parametrize(("name", "unpacked"), [("cifar10", "cifar-10-batches-py"), ("cifar100", "cifar-100-python")])
def test_missing_cifar_without_a_network_says_what_to_put_where(tmp_path, offline, name, unpacked):
    message = refusal(name, tmp_path / "data")
    assert f"{name}.npz" in message and unpacked in message and str(tmp_path / "data") in message
    assert "no network" in message


def test_data_folder_that_cannot_be_made_is_refused(tmp_path, offline):
    (tmp_path / "data").write_text("a file")
    assert "cifar100.npz" in refusal("cifar100", tmp_path / "data")


def drop_last(split):
    return lambda a: a.update({f"{k}_{split}": a[f"{k}_{split}"][:-1] for k in "xy"})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (drop_last("train"), "x_train has shape (199, 32, 32, 3), but cifar100 has (200, 32, 32, 3)"),
        (drop_last("test"), "x_test has shape (99, 32, 32, 3), but cifar100 has (100, 32, 32, 3)"),
        (set_label("y_train", 1), "y_train has 1 images of class 0, but cifar100 has 2 of each class"),
        (set_label("y_test", 7), "y_test has 0 images of class 0, but cifar100 has 1 of each class"),
        (set_label("y_train", 100), "101 classes, but cifar100 has 100"),
        (lambda a: a.update({f"x_{s}": a[f"x_{s}"][:, :16, :16] for s in ("train", "test")}), "shape (200, 16, 16, 3)"),
    ],
)  # fmt: skip
def test_an_npz_that_is_not_cifar_is_refused(tmp_path, small_cifar, change, says):
    change(small_cifar)
    path = save(tmp_path, small_cifar, "cifar100.npz")
    message = refusal("cifar100", tmp_path)
    assert says in message and str(path) in message


def test_cifar_counts_are_the_official_ones(tmp_path):
    for name, classes in (("cifar10", 10), ("cifar100", 100)):
        save(tmp_path, arrays(classes=classes, train=1, test=1, side=32), f"{name}.npz")
        assert "but " + name + " has (50000, 32, 32, 3)" in refusal(name, tmp_path)
        save(tmp_path, arrays(classes=classes + 1, train=1, test=1, side=32), f"{name}.npz")
        assert f"{name} has {classes}" in refusal(name, tmp_path)


def test_real_cifar100():
    folder = Path(os.environ.get("KD_DATA", NOWHERE))
    if not (folder / "cifar100.npz").is_file():
        pytest.skip("needs the environment variable KD_DATA: a folder with cifar100.npz")
    dataset = load(config("cifar100", mean=None, std=None), folder)
    # SHA-256 of the official images in channel-first order
    for split, digest in (
        (dataset.train, "de64658905c6b161606e3649ddafce7cf86c7634a0cf9116d518e64ef46a33c5"),
        (dataset.test, "83c56492b2c11211ad1bb2dbd4f2eef4170a0441e41a41f3039c3144b1f5a511"),
    ):
        assert hashlib.sha256(split.images.contiguous().numpy().tobytes()).hexdigest() == digest
    assert dataset.config.mean == pytest.approx(config("cifar100").mean, abs=3e-4)
    assert dataset.config.std == pytest.approx(config("cifar100").std, abs=3e-4)
    loader = Loader(dataset.train, dataset.config, 64, 0, "cpu")
    assert len(loader) == 782 and loader.views == 162
    held = load(config("cifar100", validation=0.1), folder)
    assert held.val.labels.bincount().tolist() == [50] * 100


# Folders of images


def make_folder(root: Path, test: str = "test") -> Path:
    for split in ("train", test):
        for label, name in enumerate(("ant", "bee")):
            (root / split / name).mkdir(parents=True)
            for i in range(3):
                # a wide image: red left quarter, a class's green in the middle half, blue right quarter
                pixels = np.zeros((20, 40, 3), np.uint8)
                pixels[:, :10, 0], pixels[:, 10:30, 1], pixels[:, 30:, 2] = 255, 100 * (label + 1) + i, 255
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


@pytest.mark.parametrize("test", ["test", "val"])
def test_imagefolder_is_resized_and_cropped_to_the_centre(tmp_path, test):
    make_folder(tmp_path / "insects", test)
    dataset = load(config("imagefolder", root="insects", size=20, std=[1, 1, 1]), tmp_path)
    assert dataset.class_names == ("ant", "bee")
    assert dataset.train.images.shape == dataset.test.images.shape == (6, 3, 20, 20)
    assert dataset.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert dataset.train.images[:, 1].flatten(1).unique(dim=1).flatten().tolist() == [100, 101, 102, 200, 201, 202]
    assert (dataset.train.images[:, [0, 2]] == 0).all()
    small = load(config("imagefolder", root=str(tmp_path / "insects"), size=16, std=[1, 1, 1]), NOWHERE)
    assert small.train.images.shape == (6, 3, 16, 16)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda r: r.rename(r.with_name("away")), "is not a folder: images belong in"),
        (lambda r: (r / "train").rename(r / "training"), "train is not a folder"),
        (lambda r: (r / "test").rename(r / "testing"), "test is not a folder"),
        (lambda r: (r / "test" / "bee").rename(r / "test" / "cat"), "class 'bee' is in"),
        (lambda r: [p.unlink() for p in (r / "train" / "bee").iterdir()], "bee"),
        (lambda r: (r / "test" / "ant" / "1.png").write_bytes(b"no image"), "1.png cannot be read as an image"),
        (lambda r: damage_half(r / "train" / "ant" / "2.png"), "2.png cannot be read as an image"),
    ],
)
def test_bad_imagefolder_is_refused_by_name(tmp_path, damage, says):
    damage(make_folder(tmp_path / "insects"))
    message = refusal("imagefolder", tmp_path, root="insects", size=16, std=[1, 1, 1])
    assert says in message and str(tmp_path / "insects") in message
