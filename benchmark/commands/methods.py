"""`methods`: a table of all methods, from their YAML files, their code and the measured speeds."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch

import methods
from benchmark import networks
from benchmark.config import files
from benchmark.config.compose import FULL_EPOCHS, MethodComposer
from benchmark.config.method_files import FAMILIES
from benchmark.config.overrides import value_text
from benchmark.config.schema import MethodConfig
from benchmark.errors import UserError
from benchmark.tables import cells
from benchmark.tables.markdown import grid
from benchmark.tables.model import CODE, NOTHING, TEXT, Cell, Column, Line, Table
from benchmark.training.evaluation import count_parameters
from methods.contract import Context, Method, UnsupportedPair

PAIR = "resnet32x4-resnet8x4"  # extra parameters are those on this pair
SPEED = files.CONF.parent / "results" / "speed"
SPEED_FILES = "wrn40_2-wrn16_2*.json"  # each measures some of the methods
CLASSES, IMAGES, IMAGE_SIZE = 100, 50_000, 32
COLUMNS = (
    Column("method", CODE), Column("title", TEXT), Column("paper", TEXT), Column("family", TEXT),
    Column("options", TEXT), Column("extra parameters"), Column("× student"), Column("mind", TEXT),
)  # fmt: skip


def run(words: Sequence[str]) -> int:
    """Print the table; return the exit status. Raises UserError for any key, since there is none."""
    if words:
        raise UserError(f"methods takes no keys: leave {words[0]} out")
    print(markdown(), end="")
    return 0


def markdown(speed: Path = SPEED) -> str:
    """Return the table: method, paper, default options, extra parameters, step time over the student's, remarks.

    speed: the folder of measured step times.
    """
    composer, ratios = MethodComposer(["profile=paper"]), _step_ratios(speed)
    configs = [composer.method(name, "") for name in files.group_names("method")]
    configs.sort(key=lambda m: (FAMILIES.index(m.about["family"]), m.about["year"] or 0, m.name))
    lines = [_line(config, ratios.get(config.name)) for config in configs]
    return grid(Table("Methods", COLUMNS, [lines]), aligned=False) + "\n"


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


def _line(config: MethodConfig, ratio: float | None) -> Line:
    about, method = config.about, build_on_pair(config)
    paper = f"{about['paper']}, {about['venue']}" if about["paper"] else NOTHING
    href = f"https://arxiv.org/abs/{about['arxiv']}" if about["arxiv"] else ""
    options = ", ".join(f"{name} {value_text(value)}" for name, value in config.values.items())
    remarks = [*(extra_costs(method) if method is not None else []), *filter(None, [about["uncertain"]])]
    return Line([
        Cell(config.name), Cell(about["title"]), Cell(paper, href=href), Cell(about["family"]),
        Cell(options or NOTHING), cells.integer(None if method is None else count_parameters(method)[0]),
        cells.number(ratio), Cell("; ".join(remarks) or NOTHING),
    ])  # fmt: skip


def _step_ratios(folder: Path) -> dict[str, float]:
    rows = [row for path in sorted(folder.glob(SPEED_FILES)) for row in json.loads(path.read_text())["rows"]]
    return {row["method"]: row["ratio_to_student"] for row in rows if row["ratio_to_student"]}
