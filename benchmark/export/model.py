"""The exported network: it takes images from 0 to 1, normalizes them and returns logits."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmark import networks
from benchmark.grid.build import method_class_and_options
from benchmark.networks import custom
from benchmark.runs.folder import RunFolder
from benchmark.runs.record import RunRecord
from benchmark.runs.weights import DamagedFile, load_recorded_weights, load_weights
from methods.contract import Context

WEIGHTS, DESCRIPTION = "model.safetensors", "config.json"


class Classifier(nn.Module):
    """RGB images [N, 3, H, W], float from 0 to 1 -> logits [N, C].

    model: the model at inference, with `Outputs` that have logits. mean, std: of each channel, on a scale of 0 to 1.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        return self.model((images - self.mean) / self.std).logits


def describe(folder: RunFolder, classes: int, class_names: list[str]) -> dict[str, Any]:
    """Return what `build` needs to know of a run, and the names of the classes, as plain values.

    Raises DamagedFile where the run's config lacks some of it.
    """
    config = folder.config
    try:
        return {
            "dataset": config.dataset["name"],
            "network": folder.record.network or config.tree["network"],
            "networks": config.tree.get("networks", {}),  # the user's own
            "classes": classes,
            "class_names": class_names,
            **{k: config.dataset[k] for k in ("size", "mean", "std")},
            "method": dict(config.method),
            "epochs": config.recipe.get("epochs"),
            # of which inference uses layers
            "teacher": config.tree["teacher"]["network"] if folder.method_state.is_file() else None,
        }
    except (KeyError, TypeError) as e:
        raise DamagedFile(f"{folder.path / 'config.yaml'} lacks {e}") from e


def build(description: Mapping[str, Any], method_state: Mapping[str, Tensor] | None = None) -> tuple[nn.Module, ...]:
    """Build the classifier of an exported run with fresh weights.

    method_state: of the layers that inference keeps; None leaves them fresh. Returns the classifier, its network, and
    its teacher where inference uses layers of one.
    """
    classes, size = description["classes"], description["size"]
    custom.add_all(description.get("networks", {}))
    network = networks.build(description["network"], classes, size)
    normalization = description["mean"], description["std"]
    if description["teacher"] is None:
        return Classifier(network, *normalization).eval(), network
    teacher = networks.build(description["teacher"], classes, size)
    shapes = tuple(networks.output_shapes(description[name], classes, size) for name in ("network", "teacher"))
    method_class, options = method_class_and_options(description["method"])
    labels = torch.zeros(1, dtype=torch.long)  # of the training set, which inference does not depend on
    method = method_class(options, Context(classes, shapes[0], shapes[1], labels, description["epochs"], {}))
    if method_state is not None:
        method.load_state_dict(method_state)
    return Classifier(method.inference_model(network, teacher), *normalization).eval(), network, teacher


def from_run(folder: RunFolder, description: Mapping[str, Any]) -> Classifier:
    """Return the classifier that a run has trained.

    Raises DamagedFile where a file of the run, or of its teacher, is missing, damaged or another one.
    """
    record = folder.record
    method_state = load_weights(folder.method_state) if description["teacher"] else None
    with torch.random.fork_rng(devices=[]):
        classifier, network, *teachers = build(description, method_state)
    network.load_state_dict(load_recorded_weights(folder, record.sha256))
    for teacher in teachers:
        teacher.load_state_dict(load_recorded_weights(_teacher_folder(folder, record), record.teacher_sha256))
    assert isinstance(classifier, Classifier)
    return classifier


def load(folder: str | Path) -> Classifier:
    """Return the classifier in a folder that `kd-benchmark export` wrote, on the CPU and in eval mode."""
    from safetensors.torch import load_file

    description = json.loads((Path(folder) / DESCRIPTION).read_text(encoding="utf-8"))
    with torch.random.fork_rng(devices=[]):
        classifier = build(description)[0]
    assert isinstance(classifier, Classifier)
    classifier.model.load_state_dict(load_file(Path(folder) / WEIGHTS))
    return classifier


def _teacher_folder(folder: RunFolder, record: RunRecord) -> RunFolder:
    """Return the teacher's folder; a run lies five folders below that of all runs."""
    return RunFolder(folder.path.absolute().parents[4] / (record.teacher_run or ""))
