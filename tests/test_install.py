"""An installation by the steps of the Dockerfile in a fresh environment: it is complete and works in any folder.

Docker is not needed: the steps are carried out in a virtual environment whose dependencies are those of this one.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import FINISHED, ROOT, tiny_overrides

FOLDERS = ("benchmark", "methods", "analysis", "conf")
STEPS = re.findall(r"^([A-Z]+) (.*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    """Run a command that must succeed; return its output."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    process = subprocess.run(
        list(map(str, command)), cwd=cwd, env={**environment, "OMP_NUM_THREADS": "1", **variables},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout + process.stderr


def fresh_environment(folder: Path) -> Path:
    """Make a virtual environment that sees this one's packages; return its folder of executables."""
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    dependencies = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "dependencies.pth").write_text("\n".join(dependencies))  # their editable installs are not followed
    return folder / "bin"


def copy(words: list[str], target: Path) -> None:
    """Carry out a COPY step."""
    *sources, destination = words
    for source in sources:
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, target / destination, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, target / destination)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of executables of an environment made by the steps of the Dockerfile."""
    source, binaries = tmp_path_factory.mktemp("source"), fresh_environment(tmp_path_factory.mktemp("environment"))
    variables = dict(step[1].split("=", 1) for step in STEPS if step[0] == "ARG")
    offline = {"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0"}  # 0 switches isolation off
    for kind, text in STEPS:
        if kind == "COPY":
            copy(text.split(), source)
        elif kind == "RUN":
            assert text.startswith("python -m pip install "), f"the test does not know how to run {text}"
            run("sh", "-ec", text, cwd=source, **variables, **offline, PATH=f"{binaries}:{os.environ['PATH']}")
    return binaries


def test_docker_may_read_what_it_copies():
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert allowed == {source for kind, text in STEPS if kind == "COPY" for source in text.split()[:-1]}


def test_the_installation_holds_every_source_and_setting(installed):
    (packages,) = installed.parent.glob("lib/python*/site-packages")
    for folder in FOLDERS:
        installed_files, sources = (
            {path.relative_to(root) for path in (root / folder).rglob("*") if path.is_file() and path.suffix != ".pyc"}
            for root in (packages, ROOT)
        )
        assert installed_files == sources and sources
    assert not (packages / "tests").exists()


def test_an_installed_package_trains_and_writes_where_it_is_started(installed, tmp_path):
    """By the console script that the image starts, with paths relative to the current folder."""
    (entry,) = (json.loads(text) for kind, text in STEPS if kind == "ENTRYPOINT")
    words = [word.replace(str(tmp_path), ".") for word in tiny_overrides(tmp_path)]
    words = [word for word in words if not word.startswith(("runs=", "reports="))]
    printed = run(installed / entry[0], *entry[1:], "bench", *words, *FINISHED, cwd=tmp_path)
    assert "| KD " in printed
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.npz", "runs", "reports"}
