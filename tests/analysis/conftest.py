"""A small tree of run folders, written in the documented format without the code that writes or reads runs."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.analysis.study import Study

CLASSES = ["cat", "dog", "emu"]
TITLES = {"ce": ("CE", None), "kd": ("KD", 2015), "crd": ("CRD", 2020), "clkd": ("CLKD", 2022)}
HASHES = {"resnet20": "a1" * 32, "resnet56": "b2" * 32, "resnet110": "c3" * 32}


def logits(seed: int, classes: int = len(CLASSES), samples: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(samples, classes)).astype(np.float32)


def save_outputs(folder: Path, values: np.ndarray, names: Sequence[str] = CLASSES) -> None:
    labels = np.arange(len(values)) % values.shape[1]
    np.savez_compressed(folder / "test_outputs.npz", logits=values, labels=labels, class_names=np.array(names))


class Tree:
    """Run folders below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def teacher(self, network: str, top1: float, dataset: str = "cifar100", profile: str = "short") -> str:
        """Write a teacher's run; returns its folder relative to the root."""
        relative = f"{dataset}/teachers/{network}/aaaaaaaaaaaa/seed=0"
        folder = self.root / relative
        folder.mkdir(parents=True)
        (folder / "status.json").write_text('{"status": "done", "reason": ""}')
        result = {"status": "done", "role": "teacher", "dataset": dataset, "network": network, "seed": 0}
        (folder / "result.json").write_text(json.dumps(result | {"profile": profile, "top1_last": top1}))
        save_outputs(folder, logits(1))
        return relative

    def student(
        self, pair: str, method: str, identity: str, seed: int, top1: float, *, dataset: str = "cifar100",
        profile: str = "short", epochs: int = 20, teacher_top1: float = 70.0, sha256: str | None = None,
        options: dict[str, Any] | None = None, outputs: int | None = None, changes: dict[str, Any] | None = None,
    ) -> Path:  # fmt: skip
        """Write a finished student; returns its folder. changes: fields of its result; None drops a field."""
        teacher, student = pair.split("-")
        sha256 = sha256 or HASHES[teacher]
        folder = self.create(pair, method, identity, seed, dataset=dataset)
        title, year = TITLES[method]
        result = {
            "status": "done", "role": "student", "dataset": dataset, "pair": pair, "teacher": teacher,
            "student": student, "method": method, "title": title, "year": year, "seed": seed, "profile": profile,
            "identity": identity, "epochs": epochs, "top1_last": top1, "top1_best": top1 + 0.5,
            "teacher_top1": teacher_top1, "teacher_sha256": sha256,
            "teacher_run": f"{dataset}/teachers/{teacher}/aaaaaaaaaaaa/seed=0", "agreement": 80.0,
            "correlation_distance": 0.125, "wall_s": 431.0 + seed, "step_ms": 33.1, "parameters": 78042,
            "extra_parameters": 65792 if method == "crd" else 0, "extra_buffers": 12800005 if method == "crd" else 0,
            "precision": "bf16", "versions": {"python": "3.11.7", "torch": "2.14.1"},
            "hardware": {"device": "cpu", "name": "A & B_1 CPU", "threads": 2},
        }  # fmt: skip
        result = {k: v for k, v in (result | (changes or {})).items() if v is not None}
        (folder / "result.json").write_text(json.dumps(result))
        (folder / "status.json").write_text('{"status": "done", "reason": ""}')
        self.config(folder, {
            "role": "student", "dataset": {"name": dataset, "fingerprint": "f" * 64},
            "teacher": {"network": teacher, "sha256": sha256}, "student": student,
            "method": {"name": method, "implementation": method, **(options or {})},
            "recipe": {"epochs": epochs, "lr": 0.05, "milestones": [epochs * 0.625, epochs * 0.75]},
            "precision": "bf16", "profile": profile, "seed": seed,
        })  # fmt: skip
        self.curve(folder, [top1 - 20, top1 - 10, top1])
        save_outputs(folder, logits(seed + 10 if outputs is None else outputs))
        return folder

    def create(self, pair: str, method: str, identity: str, seed: int, *, dataset: str = "cifar100") -> Path:
        """Create an empty run folder."""
        folder = self.root / dataset / pair / method / identity / f"seed={seed}"
        folder.mkdir(parents=True)
        return folder

    def ended(
        self, pair: str, method: str, identity: str, seed: int, status: str, reason: str = "", **more: Any
    ) -> Path:
        """Write a run of this status without a result; returns its folder."""
        folder = self.create(pair, method, identity, seed, **more)
        (folder / "status.json").write_text(json.dumps({"status": status, "reason": reason}))
        self.config(folder, {"role": "student", "profile": "short"})
        return folder

    def config(self, folder: Path, tree: dict[str, Any]) -> None:
        """Write the config of a run."""
        (folder / "config.yaml").write_text(yaml.safe_dump(tree))

    def curve(self, folder: Path, top1: Sequence[float | None]) -> None:
        """Write the metrics of a run: test accuracies by epoch."""
        lines = [json.dumps({"epoch": e, "loss": 1.0, "test_top1": v}) for e, v in enumerate(top1, 1)]
        (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """An empty tree to fill."""
    return Tree(tmp_path / "runs")


def fill(tree: Tree) -> None:
    """Write two pairs on CIFAR-100 with runs of every status, one seed of one pair on digits, and other files."""
    tree.teacher("resnet20", 62.3)
    tree.teacher("resnet56", 72.0)
    a, b = "resnet20-resnet8", "resnet56-resnet20"
    for seed, top1 in enumerate((59.0, 60.0, 61.0)):
        tree.student(a, "ce", "0000000000a1", seed, top1, teacher_top1=62.3)
        tree.student(a, "kd", "0000000000a2", seed, top1 + 1.25, teacher_top1=62.3, options={"T": 4.0})
        tree.student(a, "clkd", "0000000000a3", seed, top1 + 1.5, teacher_top1=62.3, options={"nu": 0.4, "beta": 2.0})
        tree.student(a, "clkd", "0000000000a4", seed, top1 - 0.5, teacher_top1=62.3, options={"nu": 0.0, "beta": 2.0})
        tree.student(b, "ce", "0000000000b1", seed, top1 + 8, teacher_top1=72.0)
    for seed, top1 in enumerate((69.0, 70.0)):  # the third was interrupted
        tree.student(b, "kd", "0000000000b2", seed, top1, teacher_top1=72.0, options={"T": 8.0})
    tree.student(b, "clkd", "0000000000b3", 0, 69.5, teacher_top1=72.0, options={"nu": 0.4, "beta": 2.0})
    tree.student(b, "crd", "0000000000b4", 0, 69.004, teacher_top1=72.0)
    tree.ended(b, "kd", "0000000000b2", 2, "running")
    tree.ended(a, "crd", "0000000000a5", 0, "diverged", "term kd is nan at step 12 (epoch 1)")
    tree.ended(a, "crd", "0000000000a5", 1, "failed", "RuntimeError: out of memory")
    tree.teacher("resnet20", 95.0, dataset="digits", profile="quick")
    where = {"dataset": "digits", "profile": "quick", "teacher_top1": 95.0}
    tree.student(a, "ce", "0000000000c1", 0, 90.0, **where)
    tree.student(a, "kd", "0000000000c2", 0, 89.5, **where)
    for name in ("wandb/offline-run-1/files", "cifar100/notes", "cifar100/resnet20-resnet8/kd/old/seed=0"):
        (tree.root / name).mkdir(parents=True)
        (tree.root / name / "result.json").write_text('{"status": "done", "top1_last": 99.0}')
    (tree.root / "cifar100" / "readme.txt").write_text("not a run")
    (tree.root / "cifar100" / "resnet20-resnet8" / "kd" / "0000000000a2" / "seed=0 (copy)").mkdir()
    (tree.root / "wandb-report-short.json").write_text("{")


@pytest.fixture
def full(tree: Tree) -> Tree:
    fill(tree)
    return tree


@pytest.fixture
def analyse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run `python -m analysis` on the tree; returns exit status, standard output and standard error."""
    from analysis.__main__ import main

    def run(*arguments: str) -> tuple[int, str, str]:
        folders = ("runs",) if arguments and arguments[0] in ("drop", "restore") else ("runs", "reports")
        places = [f"{k}={tmp_path / k}" for k in folders if not any(a.startswith(f"{k}=") for a in arguments)]
        status = main([*arguments, *places])
        out = capsys.readouterr()
        return status, out.out, out.err

    return run


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """An ablation without settings."""
    return Study(tmp_path / "runs")


@pytest.fixture
def weights(study: Study) -> Study:
    """An ablation of nu at three values: 0.1 is the best by validation accuracy, 1.6 by test accuracy."""
    study.references()
    study.row("default", {"nu": 0.4}, [50.0, 51.0, 52.0])
    study.row("nu=0.1", {"nu": 0.1}, [51.0, 53.0, 52.0], 48.75, options={"nu": 0.1})
    study.row("nu=1.6", {"nu": 1.6}, [48.0, 49.0, 50.0], 99.0, options={"nu": 1.6})
    return study
