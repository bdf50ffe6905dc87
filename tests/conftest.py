"""Fixtures of several test modules: a tiny data set, finished runs, and the command line in another process."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

from benchmark.training.hardware import usable_cores

# the same examples in every run, and no time limits, which a busy machine would exceed
settings.register_profile("suite", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

ROOT = Path(__file__).resolve().parent.parent
FINISHED = ["methods=ce,kd", "recipe.epochs=1"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--update-golden` and `--cluster`."""
    parser.addoption("--update-golden", action="store_true", help="write golden files instead of comparing with them")
    parser.addoption("--cluster", action="store_true", help="run all tests on a real Slurm and Ray, which take minutes")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return the workers of `pytest -n auto`: one more than cores, as tests also wait for processes."""
    return usable_cores() + 1


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip the slow tests on clusters, unless they are asked for."""
    if not config.getoption("--cluster"):
        for item in items:
            if item.get_closest_marker("cluster"):
                item.add_marker(pytest.mark.skip(reason="takes minutes: give --cluster"))


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[Path, bytes], None]:
    """Compare content with a golden file, or write the file with `--update-golden`."""

    def check(path: Path, content: bytes) -> None:
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        assert path.is_file() and path.read_bytes() == content, (
            f"{path.name} differs: if this is meant, --update-golden"
        )

    return check


@pytest.fixture(autouse=True)
def one_thread():
    """Use one thread of torch: the tests' networks are tiny, and the tests may run in several processes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def write_tiny(path: Path, classes: int = 6, train: int = 48, test: int = 30, size: int = 16) -> None:
    """Write images of `classes` kinds that a network can tell apart: each class has a bright square at its place."""
    rng = np.random.default_rng(0)
    arrays = {}
    for split, n in (("train", train), ("test", test)):
        y = np.arange(n) % classes
        x = rng.integers(0, 120, (n, size, size, 3), dtype=np.uint8)
        for i, c in enumerate(y):
            x[i, 2 * c : 2 * c + 4, 2 * c : 2 * c + 4] = 250
        arrays |= {f"x_{split}": x, f"y_{split}": y}
    np.savez(path, **arrays)


def tiny_overrides(folder: Path) -> list[str]:
    """Write a tiny data set; return overrides for runs of a second: resnet14 teaches resnet8 on 16-px images."""
    write_tiny(folder / "tiny.npz")
    return [
        "dataset=npz", f"data={folder}", "dataset.file=tiny.npz", "dataset.size=16", "dataset.padding=2",
        f"runs={folder / 'runs'}", f"reports={folder / 'reports'}", "pair=resnet14-resnet8", "seeds=0",
        "references=false", "recipe.epochs=2", "recipe.batch_size=16", "tracker.mode=off", "teacher.min_top1=0",
        "device=cpu", "threads=1", "precision=fp32", "evaluate_every=1", "teacher.train_size=null",
    ]  # fmt: skip


@pytest.fixture
def tiny(tmp_path: Path) -> list[str]:
    """Overrides for runs of a second in a fresh folder."""
    return tiny_overrides(tmp_path)


@pytest.fixture(scope="session")
def trained_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all runs after one epoch of ce and kd; read it through `finished`."""
    from tests.helpers import bench

    folder = tmp_path_factory.mktemp("trained")
    bench([*tiny_overrides(folder), *FINISHED])
    return folder / "runs"


@pytest.fixture
def finished(tiny: list[str], tmp_path: Path, trained_runs: Path) -> list[str]:
    """Overrides of a command whose runs (one epoch of ce and kd) are finished; the test may change their folders."""
    shutil.copytree(trained_runs, tmp_path / "runs")
    return [*tiny, *FINISHED]


@pytest.fixture
def command() -> Callable[..., subprocess.CompletedProcess]:
    """Run `python -m <module> …` in another process."""

    def call(module: str, *arguments: str, **more) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", module, *arguments], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True, text=True, timeout=300, **more,
        )  # fmt: skip

    return call
