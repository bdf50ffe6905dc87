"""Writes the folder of an exported run: model.safetensors, model.onnx, config.json and README.md, the model card."""

import json
import os
import shutil
from pathlib import Path

import torch

from benchmark.export.card import model_card
from benchmark.export.model import DESCRIPTION, WEIGHTS, Classifier, describe, from_run
from benchmark.runs import folder as store
from benchmark.runs.folder import RunFolder
from benchmark.runs.weights import recorded_classes

CARD, ONNX = "README.md", "model.onnx"


def folder_name(folder: RunFolder) -> str:
    """Return the name of a run's export: data set, pair, method, identity and seed."""
    return store.file_name(*folder.path.absolute().parts[-5:]).replace("seed_", "seed")


def export(folder: RunFolder, target: Path) -> None:
    """Write the export of a finished run; `target` appears when it is complete, and replaces an earlier export.

    Raises DamagedFile where the run's files cannot be used.
    """
    description = describe(folder, *recorded_classes(folder))
    classifier = from_run(folder, description)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    part.mkdir(parents=True)
    try:
        _write_weights(classifier, part / WEIGHTS)
        _write_onnx(classifier, description["size"], part / ONNX)
        store.write_text(part / DESCRIPTION, json.dumps(description, indent=1) + "\n")
        store.write_text(part / CARD, model_card(target.name, folder, description))
        if target.exists():
            shutil.rmtree(target)
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write_weights(classifier: Classifier, path: Path) -> None:
    from safetensors.torch import save

    state = {name: tensor.contiguous() for name, tensor in classifier.model.state_dict().items()}
    with store.atomic(path) as f:
        f.write(save(state, metadata={"format": "pt"}))


def _write_onnx(classifier: Classifier, size: int, path: Path) -> None:
    """Write the classifier as ONNX: `images` [N, 3, size, size] -> `logits` [N, C], for any N."""
    images = torch.zeros(2, 3, size, size)  # torch takes a batch of one for a constant
    program = torch.onnx.export(
        classifier, (images,), input_names=["images"], output_names=["logits"], dynamo=True, verbose=False,
        dynamic_shapes={"images": {0: torch.export.Dim("N")}},
    )  # fmt: skip
    assert program is not None
    with store.atomic(path) as f:
        f.write(program.model_proto.SerializeToString())
