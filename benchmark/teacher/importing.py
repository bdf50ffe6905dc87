"""Teachers: planned as cells of their own, or imported from a user's checkpoint; checked before use."""

from pathlib import Path

import numpy as np
import torch

from benchmark import networks
from benchmark.data.datasets import Dataset
from benchmark.errors import UserError
from benchmark.grid.run import TrainingRun, save_outputs
from benchmark.networks.checkpoints import load_foreign
from benchmark.runs.folder import RunFolder
from benchmark.runs.weights import content_hash, load_weights
from benchmark.training import metrics
from benchmark.training.evaluation import count_parameters, predict
from benchmark.training.hardware import versions


def import_checkpoint(path: Path, network: str, cell: TrainingRun, dataset: Dataset) -> TrainingRun:
    """The cell of an imported teacher, made from a plan for training it. Its weights and test outputs are stored once.

    Raises UserError where the file cannot be read or does not fit the network and data set.
    """
    teacher = networks.build(network, dataset.classes)
    load_foreign(path, teacher, network)
    weights = teacher.state_dict()
    config = {k: cell.config[k] for k in ("role", "dataset", "network", "precision", "profile")}
    config["imported"] = content_hash(weights)
    cell = TrainingRun(config, cell.dataset, cell.about, cell.settings)
    run = cell.run
    with run.lock():
        if run.done:
            return cell
        device = cell.settings.machine.device
        teacher = teacher.to(device, memory_format=torch.channels_last)
        test = dataset.test.to(device)
        logits = predict(teacher, test, dataset.config, config["precision"])
        if not logits.isfinite().all():
            raise UserError(f"{path}: the network's outputs on {dataset.name} are not finite")
        run.write_config(config)
        save_outputs(run, {k: v.cpu() for k, v in weights.items()}, logits, dataset)
        run.write_result(
            {
                "status": "done", "role": "teacher", "dataset": dataset.name, "network": network,
                "profile": config["profile"], "identity": cell.identity, "imported_from": path.name,
                "top1_last": metrics.top_k(logits, test.labels), "parameters": count_parameters(teacher)[0],
                "precision": config["precision"], "sha256": config["imported"], "versions": versions(),
                "hardware": cell.settings.machine.describe(),
            },
        )  # fmt: skip
        run.set_status("done")
    return cell


def check(run: RunFolder, network: str, classes: int, min_top1: float | None) -> str | None:
    """Why the finished teacher in `run` is not fit to teach; None where it is. The bound defaults to twice chance."""
    result = run.result or {}
    try:
        whole = content_hash(load_weights(run.weights)) == result["sha256"]
        with np.load(run.test_outputs) as saved:
            saved["logits"]
    except Exception:  # zipfile, zlib and numpy each have errors of their own for a broken file
        whole = False
    if not whole:
        return f"the teacher in {run.folder} is damaged: remove its result.json, and it is made again"
    top1 = result["top1_last"]
    bound = 2 * 100 / classes if min_top1 is None else min_top1
    if top1 >= bound:
        return None
    return f"teacher {network} reaches {top1:.2f} % on the test set, less than the {bound:.2f} % of teacher.min_top1"
