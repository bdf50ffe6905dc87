"""Fixtures of the tests of trackers."""

import os

import pytest

from benchmark.runs import tracking as module
from benchmark.runs.folder import RunFolder


@pytest.fixture
def logged_out(monkeypatch, tmp_path):
    """No login to W&B, no variables that configure it, and no limits that a busy machine would exceed."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "no-settings"))
    monkeypatch.setattr(module, "INTERRUPTED_WAIT_S", 120.0)


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    """The empty folder of a run."""
    path = tmp_path / "digits" / "pair" / "kd" / "1a2b" / "seed=0"
    path.mkdir(parents=True)
    return RunFolder(path)
