"""Examples that the tests of this room share: configs of data sets, arrays of an `.npz` file, and their errors."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from benchmark.config.files import CONF
from benchmark.config.schema import DatasetConfig
from benchmark.data.datasets import Dataset, load
from benchmark.errors import UserError

NO_FOLDER = Path("no-such-folder")


def dataset_config(name: str, /, **changes: Any) -> DatasetConfig:
    """Return the config of `conf/dataset/<name>.yaml` with some keys changed."""
    values = OmegaConf.load(CONF / "dataset" / f"{name}.yaml")
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(DatasetConfig), values, changes))
    assert isinstance(config, DatasetConfig)
    return config


def random_arrays(classes: int = 3, train: int = 8, test: int = 4, side: int = 16) -> dict[str, np.ndarray]:
    """Return the content of a valid `.npz` file: `train` and `test` random images of each class."""
    rng = np.random.default_rng(0)
    arrays = {}
    for split, per_class in (("train", train), ("test", test)):
        arrays[f"x_{split}"] = rng.integers(0, 256, (classes * per_class, side, side, 3), dtype=np.uint8)
        arrays[f"y_{split}"] = np.tile(np.arange(classes), per_class)
    return arrays


def save(folder: Path, arrays: dict[str, np.ndarray], name: str = "mine.npz") -> Path:
    """Write arrays to an `.npz` file and return its path."""
    np.savez(folder / name, allow_pickle=True, **arrays)
    return folder / name


def load_arrays(folder: Path, arrays: dict[str, np.ndarray], **changes: Any) -> Dataset:
    """Load a data set from arrays by way of an `.npz` file."""
    save(folder, arrays)
    return load(dataset_config("npz", file="mine.npz", size=16, **changes), folder)


def error_message(name: str, folder: Path, /, **changes: Any) -> str:
    """Return the error message of loading a data set, which must be a single line."""
    with pytest.raises(UserError) as caught:
        load(dataset_config(name, **changes), folder)
    message = str(caught.value)
    assert "\n" not in message
    return message
