"""What a run is trained with: its data set, trainer and evaluator, and the caches of its teacher."""

import os
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmark import networks
from benchmark.data import datasets
from benchmark.data.datasets import Dataset
from benchmark.data.mixing import ImageRecipe
from benchmark.data.streaming import make_loader
from benchmark.grid.build import build_method, load_teacher, to_device
from benchmark.grid.identity import TRAINING_SPLIT
from benchmark.grid.training_run import TrainingRun
from benchmark.runs import folder as store
from benchmark.teacher.outputs import TeacherOutputs
from benchmark.training.evaluation import Evaluator
from benchmark.training.graphs import Capture
from benchmark.training.parallel import Parallel
from benchmark.training.seeding import seeded
from benchmark.training.trainer import Schedule, Trainer


def load_dataset(run: TrainingRun) -> Dataset:
    """Load the run's data set. Raises ValueError where its content has changed since the run was planned."""
    split = run.config.get(TRAINING_SPLIT, {})
    teacher_size = str(split["size"]) if split else None
    dataset = datasets.load(run.dataset, run.settings.data, teacher_size, run.settings.hardware.device)
    planned = [run.config["dataset"]["fingerprint"], split.get("fingerprint", run.config["dataset"]["fingerprint"])]
    if [dataset.fingerprint, dataset.of_teacher.fingerprint] != planned:
        raise ValueError(f"the data set {dataset.name} has changed since the run was planned")
    return dataset.of_teacher


def build_trainer(
    run: TrainingRun, dataset: Dataset, capture: Capture, parallel: Parallel
) -> tuple[Trainer, Evaluator]:
    """Build what trains and evaluates a run in this process, one of those of `parallel`."""
    config, hardware = run.config, run.settings.hardware
    recipe, seed, device, precision = config["recipe"], config["seed"], hardware.device, config["precision"]
    with seeded("network", seed):
        network = networks.build(run.network, dataset.classes, dataset.config.size)
    teacher, teacher_logits, teacher_name = None, None, run.network
    if run.teacher_run:
        teacher_name = config["teacher"]["network"]
        teacher, teacher_logits = load_teacher(
            run.settings.runs / run.teacher_run, teacher_name, dataset, config["teacher"]["sha256"]
        )
        teacher = to_device(teacher, device)
    method = build_method(config["method"], run.network, teacher_name, dataset, recipe["epochs"], seed, device, teacher)
    images = ImageRecipe.from_recipe(recipe, dataset.classes)
    loader = make_loader(dataset.train, dataset.config, recipe["batch_size"], seed, device, images, parallel)
    teacher_outputs = TeacherOutputs(
        teacher, method.requires, loader, device=device, precision=precision, parallel=parallel,
        source=_source_of_passes(config),
    )  # fmt: skip
    trainer = Trainer(
        to_device(network, device), method, teacher_outputs, Schedule.from_recipe(recipe),
        compiled=hardware.compiled, capture=capture if hardware.graphs else None,
    )  # fmt: skip
    return trainer, Evaluator(dataset, teacher_logits, device, precision, parallel)


def _source_of_passes(config: Mapping[str, Any]) -> str:
    """Name the teacher of a run and all that its batches depend on, the seed included."""
    keys = ("dataset", TRAINING_SPLIT, "recipe", "seed", "precision", "teacher")
    return store.identity({"source": {key: config[key] for key in keys if key in config}})


def connect_cache(
    run: TrainingRun, trainer: Trainer, dataset: Dataset, announce: Callable[[str], None],
    report_progress: Callable[[float], None],
) -> None:  # fmt: skip
    """Open the teacher's caches for a student, and prefill them where that is cheaper."""
    if run.teacher_run is None:
        return
    trainer.teacher_outputs.connect(
        _cache_folder(run), trainer.method.context, run.config["teacher"]["sha256"],
        dataset.fingerprint, limit_gb=run.settings.cache_gb,
        visits=run.config["recipe"]["epochs"] * run.settings.seeds,
        announce=announce, report_progress=report_progress,
    )  # fmt: skip


def _cache_folder(run: TrainingRun) -> Path:
    """Return the folder of the teacher's caches. Raises ValueError where this machine lacks a variable in its name."""
    teacher_run = run.teacher_run or ""
    if run.settings.cache_dir is None:
        return run.settings.runs / teacher_run / "cache"
    expanded = os.path.expanduser(os.path.expandvars(run.settings.cache_dir))
    if "$" in expanded:
        raise ValueError(f"teacher.cache_dir={run.settings.cache_dir}: the variable is not set on {platform.node()}")
    return Path(expanded) / teacher_run
