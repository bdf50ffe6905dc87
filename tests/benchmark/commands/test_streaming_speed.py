"""How fast photographs are streamed: what is timed, and that `speed` shows it for data sets of random crops alone."""

import time

import pytest

from benchmark.commands import speed_harness, streaming_speed
from benchmark.commands.speed import measure_photographs
from benchmark.commands.speed_harness import Measurement, SpeedHarness
from benchmark.commands.streaming_speed import generated_photographs, measure_streaming
from benchmark.config.compose import load_config
from benchmark.data.decoders import DecodedBatches
from tests.benchmark.data.examples import dataset_config


@pytest.mark.parametrize("decoder", ["pil", "dali"])
@pytest.mark.parametrize("workers", [0, 1])
def test_both_rates_are_of_all_images_and_no_file_is_left(tmp_path, monkeypatch, decoder, workers):
    if decoder == "dali":
        pytest.importorskip("nvidia.dali")
    monkeypatch.setattr(streaming_speed, "FILES", 3)
    copies = str(tmp_path / "copies")  # of a user's images
    config = dataset_config("imagenet", size=32, workers=workers, decoder=decoder, cache_dir=copies)
    result = measure_streaming(config, 2, "cpu", tmp_path, lambda: None)
    assert (result["decoder"], result["workers"], result["width"], result["height"]) == (decoder, workers, 500, 375)
    assert 1 < result["loader_images_per_s"] < 1e5 and 1 < result["decoder_images_per_s"] < 1e5
    assert not list(tmp_path.iterdir())


def test_a_decoder_that_takes_its_time_is_seen_in_both_rates(tmp_path, monkeypatch):
    monkeypatch.setattr(streaming_speed, "FILES", 1)
    decode = DecodedBatches.__getitem__

    def slow(batches, request):
        time.sleep(0.2)
        return decode(batches, request)

    monkeypatch.setattr(DecodedBatches, "__getitem__", slow)
    result = measure_streaming(dataset_config("imagenet", size=32, workers=0), 2, "cpu", tmp_path, lambda: None)
    assert result["loader_images_per_s"] < 10 and result["decoder_images_per_s"] < 10, "a batch of 2 takes 0.2 s"


def test_generated_photographs_are_as_large_as_those_of_imagenet(tmp_path):
    split = generated_photographs(tmp_path, 100)
    assert len(split.rows) == 100 and split.path(0) == split.path(64)
    assert 60e3 < split.files.sizes.mean() < 200e3


def test_speed_streams_photographs_only_for_data_sets_that_do(tmp_path, monkeypatch):
    monkeypatch.setattr(streaming_speed, "FILES", 1)
    monkeypatch.setattr(speed_harness, "IMAGES", 600)
    words = ["pair=resnet14-resnet8", "device=cpu", "threads=1", f"runs={tmp_path}", "dataset.workers=0"]
    for more, streams in (
        (["dataset=imagenet", "dataset.size=32", "recipe.batch_size=2"], True),
        (["dataset=tinyimagenet", "dataset.mean=[0,0,0]", "dataset.std=[1,1,1]"], False),
    ):
        config = load_config([*words, *more])
        measurement = Measurement(config, [*words, *more], "resnet14", "resnet8", 2, 1, ("fp32", "fp32"))
        assert (measure_photographs(SpeedHarness(measurement)) is not None) == streams
