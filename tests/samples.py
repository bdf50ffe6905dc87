"""Samples of real data sets beside the repository, for the tests that use them; these skip where there are none."""

import tarfile
from pathlib import Path

import pytest

from tests.conftest import ROOT

SAMPLES = ROOT.parent / "shared" / "data"


def unpack(name: str, folder: Path) -> Path:
    """Unpack `<name>.tar` into a folder; return the folder that it holds. Skips the test without the sample."""
    archive = SAMPLES / f"{name}.tar"
    if not archive.is_file():
        pytest.skip(f"the sample {name}.tar is not beside the repository")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
        return folder / tar.getnames()[0].split("/")[0]


def as_imagenet(photographs: Path, root: Path, copies: int = 1) -> Path:
    """Link the photographs `<wnid>/*` into ImageNet's layout, `copies` times as training images; return the root."""
    for part, n in (("train", copies), ("val", 1)):
        for folder in sorted(photographs.iterdir()):
            (root / part / folder.name).mkdir(parents=True)
            for copy in range(n):
                for file in folder.iterdir():
                    (root / part / folder.name / f"{copy}_{file.name}").symlink_to(file)
    return root
