"""Fixtures of tests on clusters."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def slow_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A function after which epochs take so many seconds longer in all interpreters that are started."""

    def make_slow(seconds: float) -> None:
        folder = tmp_path / "site"
        folder.mkdir()
        shutil.copy(Path(__file__).with_name("slow_epochs.py"), folder / "sitecustomize.py")
        monkeypatch.setenv("PYTHONPATH", str(folder))
        monkeypatch.setenv("SECONDS_PER_EPOCH", str(seconds))

    return make_slow
