"""`methods`: a table of all methods, from their YAML files, their code and the measured speeds."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import methods
from benchmark import networks
from benchmark.config import files
from benchmark.config.compose import FULL_EPOCHS, MethodComposer
from benchmark.config.method_files import FAMILIES
from benchmark.config.schema import MethodConfig
from benchmark.training.evaluation import count_parameters
from methods.contract import Context, Method, UnsupportedPair

PAIR = "resnet32x4-resnet8x4"  # extra parameters are those on this pair
SPEED = files.CONF.parent / "results" / "speed" / "wrn40_2-wrn16_2.json"
CLASSES, IMAGES, IMAGE_SIZE = 100, 50_000, 32
NOTHING = "–"
TITLES = ("method", "title", "paper", "family", "options", "extra parameters", "× student", "mind")


def run(words: Sequence[str]) -> int:
    """Print the table; return the exit status."""
    print(markdown(), end="")
    return 0


def markdown(speed: Path = SPEED) -> str:
    """Return the table: method, paper, default options, extra parameters, step time over the student's, remarks."""
    composer, ratios = MethodComposer(["profile=paper"]), _step_ratios(speed)
    configs = [composer.method(name, "") for name in files.group_names("method")]
    configs.sort(key=lambda m: (FAMILIES.index(m.about["family"]), m.about["year"] or 0, m.name))
    rows = [_row(config, ratios.get(config.name)) for config in configs]
    rule = "|---|---|---|---|---|---:|---:|---|"
    return "\n".join([_line(TITLES), rule, *map(_line, rows)]) + "\n"


def build_on_pair(config: MethodConfig) -> Method | None:
    """Return the method on PAIR and CIFAR-100; None if it does not support them."""
    method = methods.load(config.implementation)
    student, teacher = (
        networks.output_shapes(name, CLASSES, IMAGE_SIZE) for name in reversed(networks.split_pair(PAIR))
    )
    labels = torch.arange(IMAGES) % CLASSES
    try:
        stages = method.requirements(config.options, student, teacher).batch_norms
        batch_norms = {k: (torch.zeros(teacher.stages[k][0]), torch.ones(teacher.stages[k][0])) for k in stages}
        context = Context(CLASSES, student, teacher, labels, FULL_EPOCHS, batch_norms)
        with torch.random.fork_rng():
            return method(config.options, context)
    except UnsupportedPair:
        return None


def extra_costs(method: Method) -> list[str]:
    """List what a method costs in addition to a step of training with one view."""
    costs = []
    if method.requires.views > 1:
        costs.append("two views")
    if method.requires.init_epochs:
        costs.append(f"{method.requires.init_epochs} epochs before")
    if type(method).inference_model is not Method.inference_model:
        costs.append("layers kept at inference")
    return costs


def _row(config: MethodConfig, ratio: float | None) -> list[str]:
    about, method = config.about, build_on_pair(config)
    paper = f"{about['paper']}, {about['venue']}" if about["paper"] else NOTHING
    if about["arxiv"]:
        paper = f"[{paper}](https://arxiv.org/abs/{about['arxiv']})"
    options = ", ".join(f"{name} {_value_text(value)}" for name, value in config.values.items())
    remarks = [*(extra_costs(method) if method is not None else []), *filter(None, [about["uncertain"]])]
    return [
        f"`{config.name}`", about["title"], paper, about["family"], options or NOTHING,
        NOTHING if method is None else f"{count_parameters(method)[0]:,}",
        NOTHING if ratio is None else f"{ratio:.2f}", "; ".join(remarks) or NOTHING,
    ]  # fmt: skip


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _step_ratios(path: Path) -> dict[str, float]:
    if not path.is_file():
        return {}
    rows = json.loads(path.read_text())["rows"]
    return {row["method"]: row["ratio_to_student"] for row in rows if row["ratio_to_student"]}


def _value_text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
