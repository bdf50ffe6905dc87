"""The list of all methods, made from their YAML files, their code and the measured speeds."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

import methods
from benchmark import networks
from benchmark.config import compose as configs
from benchmark.config.method_files import FAMILIES
from benchmark.networks import shapes
from benchmark.training.evaluation import count_parameters
from methods.contract import Context, Method, UnsupportedPair

PAIR = "resnet32x4-resnet8x4"  # whose extra parameters are told
SPEED = configs.CONF.parent / "results" / "speed" / "wrn40_2-wrn16_2.json"  # the measured speeds that are told
CLASSES, IMAGES = 100, 50_000
NOTHING = "–"


def built(found: configs.MethodConfig) -> Method | None:
    """The method as it is on PAIR and CIFAR-100; None where it cannot be."""
    kind = methods.load(found.implementation)
    with torch.device("meta"):
        student, teacher = (
            shapes(networks.build(n, CLASSES), 32) for n in reversed(networks.split_pair(PAIR))
        )  # fmt: skip
    labels = torch.arange(IMAGES) % CLASSES
    try:
        stages = kind.requirements(found.options, student, teacher).batch_norms
        norms = {k: (torch.zeros(teacher.stages[k][0]), torch.ones(teacher.stages[k][0])) for k in stages}
        with torch.random.fork_rng():
            return kind(found.options, Context(CLASSES, student, teacher, labels, configs.FULL_EPOCHS, norms))
    except UnsupportedPair:
        return None


def flags(method: Method) -> list[str]:
    """What makes a method's numbers not comparable at equal cost."""
    found = []
    if method.requires.views > 1:
        found.append("two views")
    if method.requires.init_epochs:
        found.append(f"{method.requires.init_epochs} epochs before")
    if type(method).inference_model is not Method.inference_model:
        found.append("layers kept at inference")
    return found


def markdown(speed: Path = SPEED) -> str:
    """The list as a Markdown table: method, paper, default options, extra parameters, step ratio, what to mind."""
    ratios = _ratios(speed)
    lines = [
        "| method | title | paper | family | options | extra parameters | × student | mind |",
        "|---|---|---|---|---|---:|---:|---|",
    ]
    described = [configs.method(name, "", ["profile=paper"]) for name in configs.group("method")]
    for found in sorted(described, key=lambda m: (FAMILIES.index(m.about["family"]), m.about["year"] or 0, m.name)):
        about, method = found.about, built(found)
        paper = f"{about['paper']}, {about['venue']}" if about["paper"] else NOTHING
        if about["arxiv"]:
            paper = f"[{paper}](https://arxiv.org/abs/{about['arxiv']})"
        options = found.resolved()
        told = ", ".join(f"{k} {_text(v)}" for k, v in _flat({k: options[k] for k in list(options)[2:]}))
        extra = NOTHING if method is None else f"{count_parameters(method)[0]:,}"
        mind = [*(flags(method) if method is not None else []), *filter(None, [about["uncertain"]])]
        ratio = f"{ratios[found.name]:.2f}" if found.name in ratios else NOTHING
        told, says = told or NOTHING, "; ".join(mind) or NOTHING
        cells = [f"`{found.name}`", about["title"], paper, about["family"], told, extra, ratio, says]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _ratios(path: Path) -> dict[str, float]:
    if not path.is_file():
        return {}
    rows = json.loads(path.read_text())["rows"]
    return {r["method"]: r["ratio_to_student"] for r in rows if r["ratio_to_student"]}


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
