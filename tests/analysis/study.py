"""Manifests of ablations and their run folders, written by hand."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis import ablation

T = 4.302653  # Student's t at 97.5 % with two degrees of freedom, from a printed table
NAME = "cifar100-short-resnet20-resnet8-mine"
SECRET = 12.34  # test accuracy of settings that are not chosen


class Study:
    """Writes a manifest and its runs below `root`; settings have one option, nu, unless `values` says otherwise."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.read: dict[str, Any] = {
            "name": NAME, "grid": "mine", "description": "its weights", "dataset": "cifar100", "profile": "short",
            "pair": "resnet20-resnet8", "method": "clkd", "title": "CLKD", "epochs": 10, "validation": 0.1,
            "validation_images": 5000, "seeds": [0, 1, 2], "form": "each", "default": "default", "settings": [],
            "axes": {"nu": {"values": [0.1, 0.4, 1.6], "log": True}}, "references": [],
        }  # fmt: skip
        (root / "ablations").mkdir(parents=True)

    def row(
        self, label: str, values: dict[str, Any], val: Sequence[float], test: float = SECRET, *, method: str = "clkd",
        where: str = "settings", options: dict[str, Any] | None = None, terms: list[str] | None = None,
    ) -> list[Path]:  # fmt: skip
        """A setting or reference with its finished runs; returns their folders."""
        identity = f"{len(self.read['settings']) + 100 * len(self.read['references']):012x}"
        runs = {str(s): f"cifar100/resnet20-resnet8/{method}/{identity}/seed={s}" for s in self.read["seeds"]}
        self.read[where].append(
            {"label": label, "method": method, "options": options or {}, "values": values, "terms": terms}
            | {"runs": runs, "impossible": None}
        )
        for seed, top1 in enumerate(val):
            folder = self.root / runs[str(seed)]
            folder.mkdir(parents=True)
            result = {"status": "done", "identity": identity, "seed": seed, "val_top1_last": top1, "top1_last": test}
            (folder / "result.json").write_text(json.dumps(result))
            (folder / "status.json").write_text('{"status": "done", "reason": ""}')
        self.write()
        return [self.root / r for r in runs.values()]

    def write(self) -> None:
        """Write the manifest."""
        (self.root / "ablations" / f"{NAME}.json").write_text(json.dumps(self.read))

    def references(self) -> None:
        """Add KD and the student alone."""
        self.row("KD", {"nu": None}, [49.0, 51.0, 50.0], 47.25, method="kd", where="references")
        self.row("Student", {"nu": None}, [45.0, 46.0, 47.0], 44.5, method="ce", where="references")

    @property
    def loaded(self) -> ablation.Ablation:
        """The ablation, which must be the only one."""
        (only_ablation,), problems = ablation.load(self.root)
        assert problems == []
        return only_ablation
