"""The parts of a run: method class, options and requirements, the built method, the frozen teacher."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import methods
from benchmark import networks
from benchmark.data.datasets import Dataset
from benchmark.networks import Network
from benchmark.runs.folder import RunFolder
from benchmark.runs.weights import content_hash, load_weights
from benchmark.training.seeding import seeded
from methods.contract import Context, Method, Requirements, Shapes, UnsupportedPair
from methods.options import build_options


def output_shapes(network: str, dataset: Dataset) -> Shapes:
    """Return the shapes of a network's outputs on a data set, from a build on the meta device."""
    return networks.output_shapes(network, dataset.classes, dataset.config.size)


def method_class_and_options(config: Mapping[str, Any]) -> tuple[type[Method], Any]:
    """Return a method's class and its options, from the method part of a run's config."""
    method = methods.load(config["implementation"])
    options = {k: v for k, v in config.items() if k not in ("name", "implementation")}
    return method, build_options(method.Options, options)


def method_requirements(config: Mapping[str, Any], student: str, teacher: str, dataset: Dataset) -> Requirements:
    """Return what a method requires on a pair, without building it.

    config: the method part of a run's config. Raises UnsupportedPair, or ValueError where the options do not fit.
    """
    method, options = method_class_and_options(config)
    shapes = output_shapes(student, dataset), output_shapes(teacher, dataset)
    requires = method.requirements(options, *shapes)
    requires.check_provided(*shapes)
    return requires


def check_recipe(config: Mapping[str, Any], requires: Requirements, recipe: Mapping[str, Any]) -> None:
    """Raise ValueError where the options of a method do not suit the recipe; UnsupportedPair where no options would.

    config: the method part of a run's config. recipe: resolved, without options that have their default.
    """
    method, options = method_class_and_options(config)
    keys = [key for key in ("optimizer", "clip_norm", "ema_decay") if key in recipe]
    if keys and method.optimizer_step is not Method.optimizer_step:
        raise UnsupportedPair(f"its optimizer steps are its own, to which recipe.{keys[0]} does not apply")
    method.check_momentum(options, recipe["momentum"])
    if recipe.get("mixup") or recipe.get("cutmix"):
        conflict = method.mixing_conflict
        if requires.views > 1:
            conflict = "it compares two views of an image, which mixup and CutMix do not blend alike"
        if conflict:
            raise UnsupportedPair(f"{conflict}: it is trained with recipe.mixup=0 recipe.cutmix=0")


def needs_teacher(config: Mapping[str, Any], student: str, teacher: str, dataset: Dataset) -> bool:
    """Return whether a method reads anything of a teacher on a pair, in training or in its final model.

    config: the method part of a run's config. Raises as `method_requirements` does.
    """
    requires = method_requirements(config, student, teacher, dataset)
    return reads_teacher(methods.load(config["implementation"]), requires)


def reads_teacher(method: type[Method], requires: Requirements) -> bool:
    """Return whether a method that has these requirements reads anything of a teacher; see `needs_teacher`."""
    reads = not requires.teacher.empty or not requires.needs(0)[1].empty or bool(requires.batch_norms)
    return reads or method.inference_model is not Method.inference_model


def build_method(
    config: Mapping[str, Any], student: str, teacher: str, dataset: Dataset, epochs: int, seed: int, device: str,
    teacher_network: Network | None = None,
) -> Method:  # fmt: skip
    """Build a method with its layers, initialized by the seed.

    config: the method part of a run's config. teacher_network: the frozen teacher, whose batch norm parameters some
    methods read. Raises UnsupportedPair, or ValueError where the options do not fit.
    """
    method, options = method_class_and_options(config)
    shapes = output_shapes(student, dataset), output_shapes(teacher, dataset)
    stages = method_requirements(config, student, teacher, dataset).batch_norms
    batch_norms = {} if teacher_network is None else networks.batch_norm_parameters(teacher_network, stages)
    context = Context(dataset.classes, *shapes, dataset.train.labels.to(device), epochs, batch_norms)
    with seeded("method", seed):
        return method(options, context).to(device)


def to_device(network: Network, device: str) -> Network:
    """Move a network to a device, its weights in the channels-last layout, in which convolutions are faster."""
    return network.to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def load_teacher(folder: Path, network: str, dataset: Dataset, sha256: str) -> tuple[Network, Tensor]:
    """Load a frozen teacher in eval mode from its run folder, with its test logits [N, C].

    Raises DamagedFile where its weights cannot be read, ValueError where they do not have the content hash `sha256`,
    which the run was planned with.
    """
    run_folder = RunFolder(folder)
    teacher = networks.build(network, dataset.classes, dataset.config.size)
    weights = load_weights(run_folder.weights)
    if content_hash(weights) != sha256:
        raise ValueError(f"the teacher in {folder} has changed since the run was planned")
    teacher.load_state_dict(weights)
    with np.load(run_folder.test_outputs) as saved:
        logits = torch.from_numpy(saved["logits"])
    return teacher.eval().requires_grad_(False), logits
