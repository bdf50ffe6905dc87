"""Which options of a data set go together, and whether its images fit into memory or are streamed from files."""

import contextlib
import importlib.util
import os
from pathlib import Path

import torch

from benchmark.config.checks import check_dataset_name
from benchmark.config.schema import CROP, FILE_DATASETS, MIN_IMAGE_SIZE, RESIZED_CROP, DatasetConfig
from benchmark.errors import UserError

EVALUATED_SHARE = 0.875  # of the shorter side of photographs: 224 of 256 pixels
SHORTER_SIDE = 256  # pixels of the photographs in resized copies
SHARE_OF_DEVICE = 0.5  # of the free memory that images may fill; networks need the rest


def check_config(config: DatasetConfig) -> None:
    """Raise UserError for options of a data set that contradict each other."""
    check_dataset_name(config)
    if config.size < MIN_IMAGE_SIZE:
        raise UserError(f"dataset.size is {config.size}: the networks need images of at least {MIN_IMAGE_SIZE} pixels")
    if config.padding > config.size:
        raise UserError(f"dataset.padding is {config.padding}: images are {config.size} pixels wide")
    for name, values in (("mean", config.mean), ("std", config.std)):
        if values is not None and len(values) != 3:
            raise UserError(f"dataset.{name} has {len(values)} numbers: give one for each of three channels, or null")
    for key, datasets, kind in (("file", ("npz",), "a file"), ("root", FILE_DATASETS, "a folder")):
        location = getattr(config, key)
        if config.source in datasets and location is None:
            raise UserError(f"dataset={config.source} needs dataset.{key}: {kind}, absolute or below the data folder")
        if config.source not in datasets and location is not None:
            names = " and ".join(f"dataset={name}" for name in datasets)
            raise UserError(f"dataset.{key} is read by {names} only, not by dataset={config.source}")
    _check_files(config)


def _check_files(config: DatasetConfig) -> None:
    """Raise UserError for options of image files that contradict each other or the source."""
    random_crops = config.augmentation == RESIZED_CROP
    if config.source not in FILE_DATASETS:
        for key, unset in (("augmentation", CROP), ("loading", "auto"), ("workers", None), ("cache_dir", None)):
            if getattr(config, key) != unset:
                raise UserError(
                    f"dataset.{key}={getattr(config, key)} is of image files ({', '.join(FILE_DATASETS)}), "
                    f"not of dataset={config.source}: leave it out"
                )
    if config.classes is not None and config.source not in ("tinyimagenet", "imagenet"):
        raise UserError(
            f"dataset.classes is of tinyimagenet and imagenet, not of dataset={config.source}: leave it out"
        )
    if random_crops and config.padding:
        raise UserError(f"dataset.padding is {config.padding}: give 0 with dataset.augmentation={RESIZED_CROP}")
    if random_crops and config.loading == "device":
        raise UserError(
            f"dataset.augmentation={RESIZED_CROP} crops the original photographs, which are streamed: "
            "leave out dataset.loading=device, or give dataset.augmentation=crop"
        )
    for key in ("decoder", "cache_dir"):
        if getattr(config, key) is not None and not random_crops:
            raise UserError(f"dataset.{key} is of dataset.augmentation={RESIZED_CROP}: leave it out")
    if config.decoder == "dali" and not _has_dali():
        raise UserError(
            "dataset.decoder=dali needs NVIDIA DALI, which is not installed: pip install 'kd-benchmark[dali]'"
        )
    if config.cache_dir is not None and config.size > EVALUATED_SHARE * SHORTER_SIDE:
        largest = int(EVALUATED_SHARE * SHORTER_SIDE)
        raise UserError(
            f"dataset.cache_dir holds images of {SHORTER_SIDE} pixels, too small for dataset.size={config.size}: "
            f"leave it out, or give a size of at most {largest}"
        )
    if (random_crops or config.loading == "stream") and (config.mean is None or config.std is None):
        raise UserError("the statistics of streamed images are not computed: give dataset.mean and dataset.std")


def _has_dali() -> bool:
    with contextlib.suppress(ModuleNotFoundError):  # where no package is below nvidia
        return importlib.util.find_spec("nvidia.dali") is not None
    return False


def streams(config: DatasetConfig, images: int, device: str) -> bool:
    """Return whether image files are decoded batch by batch during training instead of once before it.

    images: their number. device: cpu or cuda, on which they would be kept. Training is the same either way.
    """
    if config.augmentation == RESIZED_CROP or config.loading == "stream":
        return True
    if config.loading == "device" or config.source == "imagefolder":  # whose fingerprint would differ
        return False
    bytes_on_device = images * 3 * (config.size + 2 * config.padding) ** 2
    free = available_memory()
    if device == "cuda" and torch.cuda.is_available():
        free = min(free, torch.cuda.mem_get_info()[0])
    return bytes_on_device > SHARE_OF_DEVICE * free


def check_memory(config: DatasetConfig, images: int, available: int | None = None) -> None:
    """Raise UserError where the images of a data set, and a copy while they are made, exceed the available memory."""
    size = config.size
    needed, available = 2 * images * 3 * size * size, available or available_memory()
    if needed > available:
        smaller = "choose a smaller dataset.size or dataset.train_size"
        if config.source in FILE_DATASETS:
            smaller += ", or dataset.loading=stream"
        raise UserError(
            f"dataset.size is {size}: {images:,} images of that size need {needed / 1e9:.1f} GB of memory, and "
            f"{available / 1e9:.1f} GB are available: {smaller}"
        )


def available_memory() -> int:
    """Return the bytes of memory a process may still take: on Linux as the kernel estimates, else all of it."""
    meminfo = Path("/proc/meminfo")
    fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines()) if meminfo.exists() else {}
    if "MemAvailable" in fields:
        return 1024 * int(fields["MemAvailable"].split()[0])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
