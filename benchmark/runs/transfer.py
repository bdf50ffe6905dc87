"""Linear probes of finished students on other data sets, kept beside the students. No torch here.

    <run>/transfer/<target>/<identity>/     one probe of one run; the identity is the hash of its protocol and its data

    config.yaml        protocol (`probe`), target (`dataset`), and the probed weights (`student`)
    status.json        as that of a run
    result.json        written last (`TransferRecord`), with a checksum
    metrics.jsonl      one line per epoch: epoch, lr, loss, train_top1, test_top1, test_top5 (with more than 5 classes)
    weights.pt         weight [C, D] and bias [C] of the linear layer
    features.bin       features of the training views, [views, D] float32, while the probe is in progress
    features.json      what these features depend on
    error.txt          traceback of a probe that failed
    lock, lock.<n>     held by the process that writes the probe

A probe lies in the folder of its run, so that it moves with the run and goes when the run goes.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmark.runs import folder as store
from benchmark.runs import locks
from benchmark.runs.folder import RunFolder
from benchmark.runs.reading import read_json
from benchmark.runs.record import RunStatus, checksum, read_result, readers

FOLDER = "transfer"
IDENTITY = re.compile(r"[0-9a-f]{12}")


@dataclass(frozen=True)
class TransferRecord:
    """Content of the result.json of a linear probe. Accuracies are in per cent, after the last epoch."""

    status: RunStatus | None = None
    target: str | None = None  # name of the data set that the probe was trained and tested on
    source: str | None = None  # name of the data set that the probed network was trained on
    network: str | None = None  # the probed network
    student_sha256: str | None = None  # content hash of its weights
    identity: str | None = None  # hash of the probe's protocol and data
    epochs: int | None = None  # of the probe
    top1_last: float | None = None  # test accuracy
    top5_last: float | None = None  # test top-5 accuracy, with more than 5 classes
    train_top1_last: float | None = None  # on the augmented training images
    classes: int | None = None  # of the target
    train_images: int | None = None
    test_images: int | None = None
    features: int | None = None  # length D of the pooled features
    views: int | None = None  # distinct views of training images that the epochs visit
    features_bytes: int | None = None  # size of the file of their features; 0: computed anew in every epoch
    wall_s: float | None = None  # seconds of the whole probe; of one that was interrupted, of the last attempt
    features_s: float | None = None  # of these, seconds in forward passes for features
    engine_version: str | None = None  # hash of the source code of benchmark/ that features depend on
    commit: str | None = None  # of the git working tree that ran
    clean: bool | None = None  # whether benchmark/, methods/ and conf/ of the working tree had no uncommitted change
    versions: Mapping[str, Any] = field(default_factory=dict)  # of Python and libraries
    hardware: Mapping[str, Any] = field(default_factory=dict)  # device, its name, threads

    problem: str | None = field(default=None, compare=False)  # why the record cannot be used; not persisted

    def to_json(self) -> dict[str, Any]:
        """Return the content of result.json, without the checksum."""
        return {key: getattr(self, name) for name, key, _ in readers(TransferRecord)}


class TransferFolder(RunFolder):
    """The folder of one linear probe. Reading is always possible; whoever writes must hold the lock."""

    @property
    def result(self) -> TransferRecord:
        """The result; its `problem` says why it cannot be used, where the file is missing or broken too."""
        return read_result(TransferRecord, read_json(self.path / "result.json"))

    def write_result(self, record: TransferRecord) -> None:
        """Write the result, with a checksum by which a later change is noticed."""
        locks.verify(self.lock_file)
        content = store.finite(record.to_json())
        store.write_json(self.path / "result.json", {**content, "checksum": checksum(content)})

    def write_metrics(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Write the metrics of all epochs."""
        text = "".join(f"{json.dumps(store.finite(line))}\n" for line in lines)
        store.write_text(self.path / "metrics.jsonl", text)

    def is_finished(self, student_sha256: str | None) -> bool:
        """Return whether the probe of these weights is complete; the run may have been trained again since."""
        record = self.result
        usable = record.problem is None and record.student_sha256 is not None
        same = usable and record.student_sha256 == student_sha256
        return same and self.status == RunStatus.DONE and self.weights.is_file()


def transfer_folder(run: Path, target: str, identity: str) -> TransferFolder:
    """Return the folder of the probe of a run on a target."""
    return TransferFolder(run / FOLDER / target / identity)


def transfers(run: Path) -> Iterator[TransferFolder]:
    """Iterate over the probes of a run, sorted by target and identity, finished or not."""
    if (run / FOLDER).is_dir():
        for path in sorted((run / FOLDER).glob("*/*")):
            if IDENTITY.fullmatch(path.name) and path.is_dir():
                yield TransferFolder(path)
