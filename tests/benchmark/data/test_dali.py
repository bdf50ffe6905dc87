"""Batches decoded by NVIDIA DALI on the CPU: those of PIL but for rounding. Skipped where DALI is not installed."""

import gc
import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from benchmark.data import decoders
from benchmark.data.datasets import Dataset, load
from benchmark.data.decoders import Request, make_decoder
from benchmark.data.decoding import decode
from benchmark.data.streaming import StreamingLoader, evaluation_batches
from benchmark.errors import UserError
from tests.benchmark.data.examples import dataset_config
from tests.benchmark.data.layouts import write_image, write_imagenet

pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed: pip install -e '.[dali]'")

SIZE = 32
RAW = {"mean": [0.0] * 3, "std": [1.0] * 3}  # normalized pixels are from 0 to 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    write_imagenet(folder / "imagenet", train=5)
    return folder


def photographs(folder, **changes) -> Dataset:
    return load(dataset_config("imagenet", **{"size": SIZE, "workers": 0, "decoder": "dali", **RAW, **changes}), folder)


def loader_of(dataset: Dataset) -> StreamingLoader:
    return StreamingLoader(dataset.train, dataset.config, 4, 3, "cpu")


def evaluated(dataset: Dataset) -> torch.Tensor:
    """Pixels of all test images, from 0 to 255."""
    return 255 * torch.cat(list(evaluation_batches(dataset.test, dataset.config, 4, "cpu")))


def assert_near(images: torch.Tensor, expected: torch.Tensor) -> None:
    """Pixels differ by rounding, and by how colors of a JPEG are interpolated."""
    difference = (images - expected).abs()
    assert images.shape == expected.shape and difference.mean() < 1 and difference.max() < 16


def test_crops_are_those_of_pil_but_for_rounding(folder):
    positions, crops = np.arange(15), {}
    for decoder in ("dali", "pil"):
        dataset = photographs(folder, decoder=decoder)
        requests = [Request(positions, epoch, 2) for epoch in (2, 3)]
        crops[decoder] = [
            pixels.float() for pixels in make_decoder(dataset.train, dataset.config, 3, "cpu").decode(requests)
        ]
    for by_dali, by_pil in zip(crops["dali"], crops["pil"], strict=True):
        assert_near(by_dali, by_pil)
    (first, second), other_epoch = crops["dali"][0], crops["dali"][1][0]
    assert (first - second).abs().mean() > 10 and (first - other_epoch).abs().mean() > 10, "views and epochs differ"


@pytest.mark.parametrize("size", [32, 224])
def test_evaluation_images_are_those_of_pil_but_for_rounding(folder, size):
    assert_near(*(evaluated(photographs(folder, decoder=decoder, size=size)) for decoder in ("dali", "pil")))


def test_batches_are_the_same_with_any_number_of_workers_and_after_an_abandoned_epoch(folder):
    alone, used = (loader_of(photographs(folder, workers=workers)) for workers in (0, 2))
    next(used.epoch(1, 2))
    next(used.epoch(2))
    assert torch.equal(used.unaugmented(torch.tensor([3, 0])), alone.unaugmented(torch.tensor([3, 0])))
    for a, b in zip(alone.epoch(3, 2), used.epoch(3, 2), strict=True):
        assert all(map(torch.equal, a.images, b.images)) and torch.equal(a.indices, b.indices)
    used.close()


def test_a_worker_does_not_collect_a_pipeline_that_it_inherits(folder, monkeypatch):
    def collect_at_once(worker: int) -> None:
        prepare(worker)
        gc.collect()

    prepare = decoders._prepare_worker
    monkeypatch.setattr(decoders, "_prepare_worker", collect_at_once)
    forgotten, used = (loader_of(photographs(folder, workers=workers)) for workers in (0, 1))
    list(forgotten.epoch(1))
    cycle: list[object] = [forgotten]
    cycle.append(cycle)
    gc.disable()
    try:
        del forgotten, cycle  # unreachable, and not yet collected
        assert len(list(used.epoch(1))) == 4
    finally:
        gc.enable()
    used.close()


def test_photographs_of_a_folder_are_turned_as_a_viewer_shows_them(tmp_path):
    for part in ("train", "test"):
        for label in ("a", "b"):
            write_image(tmp_path / "mine" / part / label / "0.jpg", 1, (48, 32))
            write_image(tmp_path / "mine" / part / label / "1.jpg", 2, (48, 32))
    turned = tmp_path / "mine" / "test" / "a" / "0.jpg"
    image, exif = Image.open(turned), Image.Exif()
    exif[0x0112] = 6
    image.save(turned, exif=exif)
    with Image.open(turned) as original:
        assert ImageOps.exif_transpose(original).size == (32, 48)
    images = []
    for decoder in ("dali", "pil"):
        config = dataset_config(
            "imagefolder", root="mine", augmentation="resized_crop", padding=0, size=24, workers=0, decoder=decoder,
            **RAW,
        )  # fmt: skip
        images.append(evaluated(load(config, tmp_path)))
    assert_near(*images)


@pytest.mark.parametrize("length", [100, 700])
def test_a_damaged_file_is_named(tmp_path, length):
    damaged = write_imagenet(tmp_path / "imagenet") / "train" / "n02" / "n02_1.JPEG"
    content = damaged.read_bytes()
    assert len(content) > 700, "700 bytes hold the header"
    damaged.write_bytes(content[:length])
    with pytest.raises(UserError, match=r"n02_1.JPEG cannot be read as an image \(.*\): remove or replace it$"):
        list(loader_of(photographs(tmp_path)).epoch(1))


def test_a_file_that_pil_reads_and_dali_does_not_is_refused_with_the_reason(tmp_path):
    root, gif = write_imagenet(tmp_path / "imagenet"), io.BytesIO()
    path = root / "train" / "n02" / "n02_1.JPEG"
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(gif, "GIF")
    path.write_bytes(gif.getvalue())
    decode(str(path), as_shown=False)
    with pytest.raises(UserError, match=r"DALI cannot decode images of .*imagenet \(.*\): give dataset.decoder=pil$"):
        list(loader_of(photographs(tmp_path)).epoch(1))
