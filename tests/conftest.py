"""What several test modules share: a tiny data set, and the command line in this and in another process."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

# the same examples in every run, and no time limits, which a busy machine would exceed
settings.register_profile("suite", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def one_thread():
    """Sums over more threads than cores are slow, and the tests' networks are tiny."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def write_tiny(path: Path, classes: int = 6, train: int = 48, test: int = 30, size: int = 16) -> None:
    """Images of `classes` kinds that a network can tell apart: a bright square in a place of its class's own."""
    rng = np.random.default_rng(0)
    arrays = {}
    for split, n in (("train", train), ("test", test)):
        y = np.arange(n) % classes
        x = rng.integers(0, 120, (n, size, size, 3), dtype=np.uint8)
        for i, c in enumerate(y):
            x[i, 2 * c : 2 * c + 4, 2 * c : 2 * c + 4] = 250
        arrays |= {f"x_{split}": x, f"y_{split}": y}
    np.savez(path, **arrays)


@pytest.fixture
def tiny(tmp_path: Path) -> list[str]:
    """Overrides for cells that train in a second: six classes of 16-px images, resnet14 teaches resnet8."""
    write_tiny(tmp_path / "tiny.npz")
    return [
        "dataset=npz", f"data={tmp_path}", "dataset.file=tiny.npz", "dataset.size=16", "dataset.padding=2",
        f"runs={tmp_path / 'runs'}", f"reports={tmp_path / 'reports'}", "pair=resnet14-resnet8", "seeds=0",
        "recipe.epochs=2", "recipe.batch_size=16", "tracker.mode=off", "teacher.min_top1=0", "device=cpu", "threads=1",
        "precision=fp32",
    ]  # fmt: skip


@pytest.fixture
def command() -> Callable[..., subprocess.CompletedProcess]:
    """`python -m <module> …` in a process of its own."""

    def call(module: str, *arguments: str, **more) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", module, *arguments], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True, text=True, timeout=300, **more,
        )  # fmt: skip

    return call
