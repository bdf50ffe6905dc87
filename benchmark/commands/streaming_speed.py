"""How fast photographs are streamed: images per second of their decoder alone and of the loader in training."""

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from benchmark.config.schema import DatasetConfig
from benchmark.data.decoders import DecodedBatches, Request, Workers, make_decoder, worker_count
from benchmark.data.image_files import FileSplit, list_image_files
from benchmark.data.streaming import StreamingLoader

FILES, WIDTH, HEIGHT, QUALITY = 64, 500, 375, 90  # of generated photographs, which are about as large as ImageNet's
BATCHES_PER_WORKER, PASSES = 4, 3


def measure_streaming(
    config: DatasetConfig, batch_size: int, device: str, folder: Path, wait: Callable[[], object]
) -> dict[str, Any]:
    """Time passes over generated JPEG files, by the decoder alone and by the loader in turns; return median rates.

    The decoder alone is DALI's, or as many processes as the loader has workers, which decode and crop but send nothing.
    folder: for the files, which are removed. wait: returns when the device has finished its work.
    """
    config = dataclasses.replace(config, cache_dir=None)  # no copies of the generated files
    workers = worker_count(config, device)
    images = BATCHES_PER_WORKER * max(1, workers) * batch_size
    with tempfile.TemporaryDirectory(dir=folder) as files:
        split = generated_photographs(Path(files), images)
        loader = StreamingLoader(split, config, batch_size, 0, device)
        seconds: dict[str, list[float]] = {"decoder": [], "loader": []}
        passes = {"decoder": _decoder_passes(split, config, batch_size, device), "loader": loader.epoch}
        for epoch in range(PASSES + 1):  # the first starts the workers
            for name, run in passes.items():
                started = time.perf_counter()
                for _ in run(epoch + 1):
                    pass
                wait()
                seconds[name].append(time.perf_counter() - started)
        loader.close()
    rates = {f"{name}_images_per_s": images / statistics.median(times[1:]) for name, times in seconds.items()}
    return {"decoder": config.decoder or "pil", "workers": workers, "width": WIDTH, "height": HEIGHT, **rates}


def generated_photographs(folder: Path, images: int) -> FileSplit:
    """Write JPEG files of smooth colors and noise; return a split that repeats them."""
    random, paths = np.random.default_rng(0), []
    for n in range(FILES):
        colors = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        smooth = np.asarray(colors.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), np.int16)
        noisy = smooth + random.integers(-28, 29, smooth.shape, dtype=np.int16)
        paths.append(folder / f"{n}.jpg")
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(paths[-1], quality=QUALITY)
    files = list_image_files(folder, [(str(path), 0) for path in paths])
    return FileSplit(files, np.arange(images) % FILES, torch.zeros(images, dtype=torch.int64))


def _decoder_passes(
    split: FileSplit, config: DatasetConfig, batch_size: int, device: str
) -> Callable[[int], Iterable[object]]:
    """Return what decodes all images once for an epoch's crops."""
    parts = np.split(np.arange(len(split.rows)), len(split.rows) // batch_size)
    if config.decoder == "dali":
        decode = make_decoder(split, config, 0, device).decode
    else:
        decode = Workers(_DecodedAndDropped(split, config, 0), worker_count(config, device)).answer
    return lambda epoch: decode([Request(part, epoch) for part in parts])


class _DecodedAndDropped(Dataset[int]):
    """Decodes requested batches and returns the number of their images."""

    def __init__(self, split: FileSplit, config: DatasetConfig, seed: int) -> None:
        self._batches = DecodedBatches(split, config, seed)

    def __getitem__(self, request: Request) -> int:
        """Decode a batch."""
        return len(self._batches[request])
