"""A tree of many methods on many pairs, and the parts of it that the tests of the figures draw."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from analysis.grouping import group_runs
from analysis.groups import ResultGroup
from analysis.load import Runs
from tests.analysis.conftest import Tree, save_outputs

PAIRS = (
    "wrn40_2-wrn16_2", "wrn40_2-wrn40_1", "resnet56-resnet20", "resnet110-resnet20", "resnet110-resnet32",
    "resnet32x4-resnet8x4", "vgg13-vgg8", "vgg13-MobileNetV2", "ResNet50-MobileNetV2", "ResNet50-vgg8",
    "resnet32x4-ShuffleV1", "resnet32x4-ShuffleV2", "wrn40_2-ShuffleV1",
)  # fmt: skip
LONG = "Adaptive Class-aware Knowledge Distillation with Relations"  # a title longer than any of the suite's
FAMILIES = {
    "logits": "kd clkd dkd dist lskd mlld nkd ctkd normkd wttm ttm loca sdd rld ldrld clkd_letter cskd dkd_ls mlld_ls "
    "ctkd_ls sdd_dkd mine_logits",
    "features": "crd at fitnet reviewkd vid nst ft ab ofd simkd catkd crd_kd fitnet_kd dot mine_features",
    "relations": "rkd sp pkt cc fsp ickd mine_relations",
}
SIZES = (1, 5, 15, 45)  # methods shown
SEEDS = 3
EPOCHS = 12


def method_families() -> dict[str, str]:
    """45 methods with their families, the student alone second, in an order that mixes the families."""
    families = {m: family for family, names in FAMILIES.items() for m in names.split()}
    first = ["kd", "ce", "clkd", "crd", "rkd"]
    return {m: (families | {"ce": "baseline"})[m] for m in [*first, *sorted(families.keys() - set(first))]}


METHODS = list(method_families())


def title(method: str) -> str:
    """The title of a method: as its name, and a long one for a method of every size above one."""
    return "Student" if method == "ce" else LONG if method == "crd" else method.replace("_", " ").upper()


def fill_many(tree: Tree, methods: Sequence[str] = METHODS, pairs: Sequence[str] = PAIRS, *, images: int = 60,
              classes: int = 10, outputs_on: int = 1) -> None:  # fmt: skip
    """Write three seeds of every method on every pair. outputs_on: so many pairs have test outputs."""
    rng, families = np.random.default_rng(3), method_families()
    prototypes = rng.normal(size=(classes, classes))
    labels = np.arange(images) % classes
    names = [f"class{i}" for i in range(classes)]
    for p, pair in enumerate(pairs):
        teacher, student = pair.split("-")
        teacher_run = f"cifar100/teachers/{teacher}/aaaaaaaaaaaa/seed=0"
        (tree.root / teacher_run).mkdir(parents=True, exist_ok=True)
        if p < outputs_on:
            _outputs(tree.root / teacher_run, rng, prototypes, labels, names)
        for m, method in enumerate(methods):
            for seed in range(SEEDS):
                identity = f"{p:06x}{m:06x}"
                folder = tree.create(pair, method, identity, seed)
                top1 = 70 + p / 3 + (0 if method == "ce" else 1 + 2 * rng.random()) + rng.normal(0, 0.2)
                record = {
                    "status": "done", "role": "student", "dataset": "cifar100", "pair": pair, "teacher": teacher,
                    "student": student, "method": method, "title": title(method), "year": 2000 + m,
                    "family": families[method], "seed": seed, "profile": "short", "identity": identity,
                    "epochs": EPOCHS, "top1_last": top1, "top1_best": top1, "teacher_top1": 76.0 + p / 4,
                    "teacher_sha256": f"{p:064x}", "teacher_run": teacher_run, "wall_s": 400.0 + 20 * m,
                    "step_ms": 30.0 + m, "agreement": 80.0, "correlation_distance": 0.1,
                }  # fmt: skip
                (folder / "result.json").write_text(json.dumps(record))
                (folder / "status.json").write_text('{"status": "done", "reason": ""}')
                if seed == 0:
                    tree.config(folder, {
                        "method": {"name": method}, "recipe": {"epochs": EPOCHS}, "teacher": {"sha256": f"{p:064x}"},
                    })  # fmt: skip
                if p < outputs_on:
                    curve = [{"epoch": e, "test_top1": top1 - 30 / e + 30 / EPOCHS, "data_s": 1.0, "step_s": 9.0}
                             for e in range(1, EPOCHS + 1)]  # fmt: skip
                    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, curve)))
                    _outputs(folder, rng, prototypes, labels, names)


def _outputs(folder: Path, rng: np.random.Generator, prototypes: np.ndarray, labels: np.ndarray,
             names: Sequence[str]) -> None:  # fmt: skip
    values = prototypes[labels] + 0.4 * rng.normal(size=(len(labels), prototypes.shape[1]))
    save_outputs(folder, values.astype(np.float32), names)


def part(runs: Runs, methods: int, pairs: int) -> ResultGroup:
    """The group of the first methods on the first pairs."""
    frame = runs.finished
    chosen = frame[frame.method.isin(METHODS[:methods]) & frame.pair.isin(PAIRS[:pairs])]
    return group_runs(chosen, PAIRS)[0]
