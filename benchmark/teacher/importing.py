"""Teachers imported from a checkpoint or from timm, and the check of every finished teacher before it is used."""

import io
import sys
from pathlib import Path

import numpy as np

from benchmark import networks
from benchmark.data.datasets import Dataset
from benchmark.errors import UserError
from benchmark.grid.build import to_device
from benchmark.grid.training_run import TrainingRun
from benchmark.networks import Network
from benchmark.networks.checkpoints import load_foreign
from benchmark.runs import provenance
from benchmark.runs.folder import RunFolder
from benchmark.runs.reading import read_bytes
from benchmark.runs.record import RunRecord, RunStatus
from benchmark.runs.weights import content_hash, load_weights, save_outputs
from benchmark.teacher.input_statistics import input_drift
from benchmark.training import metrics
from benchmark.training.evaluation import count_parameters, predict
from benchmark.training.hardware import versions


def import_teacher(checkpoint: str | None, network: str, training: TrainingRun, dataset: Dataset) -> TrainingRun:
    """Import a teacher; its weights and test outputs are stored the first time.

    checkpoint: the file with its weights; None: the weights that timm publishes, which are downloaded once. training:
    the run that would train this teacher. Return the run that stands for the imported one. Raises UserError where the
    weights cannot be read or do not fit the network and the data set.
    """
    if checkpoint is None:
        teacher, mean, std = networks.build_pretrained(network, dataset.classes, dataset.config.size)
        _check_normalization(network, mean, std, dataset)
        return import_network(teacher, f"timm's weights of {network}", network, training, dataset)
    path = Path(checkpoint)
    teacher = networks.build(network, dataset.classes, dataset.config.size)
    load_foreign(path, teacher, network)
    return import_network(teacher, path.name, network, training, dataset)


def _check_normalization(network: str, mean: list[float], std: list[float], dataset: Dataset) -> None:
    """Raise UserError where images are normalized by another mean and std than pretrained weights need."""
    if (mean, std) != (dataset.config.mean, dataset.config.std):
        settings = f"dataset.mean={mean} dataset.std={std}".replace(", ", ",")
        raise UserError(f"{network} is pretrained on images of another normalization: add {settings}")


def import_network(teacher: Network, origin: str, network: str, training: TrainingRun, dataset: Dataset) -> TrainingRun:
    """Import a trained network as a teacher; its weights and test outputs are stored the first time.

    origin: where it comes from, for the record and messages. network, training: as in `import_teacher`, whose run
    is returned. Raises UserError where the network's outputs are not finite.
    """
    weights = teacher.state_dict()
    sha256 = content_hash(weights)
    config = {
        k: training.config[k]
        for k in ("role", "dataset", "network", "networks", "precision", "profile")
        if k in training.config
    }
    run = TrainingRun({**config, "imported": sha256}, training.dataset, training.about, training.settings)
    folder, hardware = run.folder, run.settings.hardware
    with folder.lock(wait=True):  # an import takes seconds
        if folder.done:
            return run
        teacher = to_device(teacher, hardware.device)
        test = dataset.test.to(hardware.device)
        logits = predict(teacher, test, dataset.config, config["precision"])
        if not logits.isfinite().all():
            raise UserError(f"{origin}: the network's outputs on {dataset.name} are not finite")
        if (drift := input_drift(teacher, dataset)) and drift.is_large:
            print(
                f"teacher {network}: {origin} was trained on other images than this recipe's: at its first batch norm "
                f"{drift}; check dataset.mean, dataset.std and the augmentation that it was trained with",
                file=sys.stderr,
            )
        folder.write_config(run.config)
        weights = {k: v.cpu() for k, v in weights.items()}
        save_outputs(folder, weights, logits, dataset.test.labels, dataset.class_names)
        record = RunRecord(
            status=RunStatus.DONE,
            role="teacher",
            dataset=dataset.name,
            network=network,
            profile=config["profile"],
            identity=run.identity,
            imported_from=origin,
            input_mean_drift=drift and drift.mean,
            input_variance_drift=drift and drift.variance,
            top1_last=metrics.top_k(logits, test.labels),
            parameters=count_parameters(teacher)[0],
            precision=config["precision"],
            sha256=sha256,
            **provenance.record_fields(),
            versions=versions(),
            hardware=hardware.describe(),
        )
        folder.write_record(record)
        folder.set_status(RunStatus.DONE)
    return run


def rejection_reason(folder: RunFolder, network: str, classes: int, min_top1: float | None) -> str | None:
    """Return why a finished teacher must not be used; None where it may.

    min_top1: the least test accuracy, per cent; twice chance by default.
    """
    record = folder.record
    try:
        intact = content_hash(load_weights(folder.weights)) == record.sha256
        with np.load(io.BytesIO(read_bytes(folder.test_outputs))) as saved:
            saved["logits"]
    except PermissionError as e:
        return f"the teacher in {folder.path} cannot be read: {e.strerror}: {e.filename}"
    except Exception:  # zipfile, zlib and numpy raise many kinds of errors for a broken file
        intact = False
    if not intact or record.top1_last is None:
        return f"the teacher in {folder.path} is damaged: remove its result.json to train it again"
    bound = 2 * 100 / classes if min_top1 is None else min_top1
    if record.top1_last >= bound:
        return None
    return (
        f"teacher {network} reaches {record.top1_last:.2f} % on the test set, "
        f"less than the {bound:.2f} % of teacher.min_top1"
    )
