"""What a run folder says about its run: the typed content of result.json, status.json and config.yaml. No torch here.

The Python names are those of the field; `NAMES_ON_DISK` maps the few that differ from the keys in the files.
Reading is tolerant, because old runs lack newer keys: a missing key, or a value of the wrong type, reads as None.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Self, TypeVar

from benchmark.runs.reading import read_yaml, well_formed
from methods.options import is_number

NAMES_ON_DISK = {"init_epochs": "pre_epochs", "code_version": "code", "changed_settings": "changed"}
LARGEST_NUMBER = 1e15  # a larger one is a mistake, and some have no float
Record = TypeVar("Record")  # a dataclass with a field `problem`
UNREADABLE = "its result.json is missing or broken"
TEACHERS = "teachers"  # the folder that holds teachers, where students have their pair
# Keys that are written as null where there is no value: by every trained network, by students, and by those with a
# teacher.
NULLABLE = ("top5_last", "val_top1_last", "agreement", "correlation_distance")
NULLABLE_STUDENT = ("year",)
NULLABLE_PAIR = ("teacher_top1",)


class RunStatus(StrEnum):
    """State of a run."""

    RUNNING = "running"  # or interrupted, where no process holds the run's lock
    DONE = "done"
    FAILED = "failed"
    DIVERGED = "diverged"  # a loss or an output was not finite
    SKIPPED = "skipped"  # the method does not support the pair


@dataclass(frozen=True)
class StatusRecord:
    """Content of status.json. status: None where the file is missing, broken or of an unknown status."""

    status: RunStatus | None = None
    reason: str = ""  # why the run failed, diverged or was skipped

    @classmethod
    def from_json(cls, content: Mapping[str, Any] | None) -> Self:
        """Return the status in a parsed status.json; None stands for a file that cannot be read."""
        text: dict[str, Any] = well_formed(content or {})
        return cls(_status(text.get("status")), str(text.get("reason") or ""))

    def to_json(self) -> dict[str, Any]:
        """Return the content of status.json."""
        return {"status": self.status, "reason": self.reason}


@dataclass(frozen=True)
class RunRecord:
    """Content of result.json: what a finished run measured, and of which network, method and settings.

    All accuracies are test accuracies in per cent, unless named otherwise; "last" is the last epoch, "best" the best of
    all evaluated epochs (by test accuracy, so never a headline). With a validation split, `val_top1_last` is what may
    be shown, and what is measured on the test set is sealed (`is_sealed`). Fields that a run has no value for are None:
    the ones about the pair for a teacher, the ones about training for an imported teacher, newer ones for old runs.
    """

    status: RunStatus | None = None  # state of the run
    role: str | None = None  # student or teacher
    dataset: str | None = None  # name of the data set
    network: str | None = None  # the trained network

    # Students only; a student alone, trained by a method that reads no teacher, has no pair and no teacher
    pair: str | None = None  # <teacher>-<student>
    teacher: str | None = None  # network of the teacher
    student: str | None = None  # network of the student
    method: str | None = None  # name in conf/method
    title: str | None = None  # of the method, for tables
    year: int | None = None  # of the method's publication
    family: str | None = None  # of the method: baseline, logits, features or relations
    teacher_top1: float | None = None  # accuracy of the teacher
    teacher_top5: float | None = None  # its top-5 accuracy, with more than 5 classes
    teacher_sha256: str | None = None  # content hash of the teacher's weights
    teacher_run: str | None = None  # the teacher's run folder, relative to the root of all runs

    seed: int | None = None  # of all random streams
    profile: str | None = None  # name in conf/profile
    recipe: str | None = None  # name in conf/recipe
    identity: str | None = None  # hash of the config without the seed
    epochs: int | None = None  # training epochs, without those of the initialization stage
    evaluated_epochs: int | None = None  # epochs that were evaluated, those of the initialization stage included
    imported_from: str | None = None  # file name of an imported teacher's checkpoint
    input_mean_drift: float | None = None  # imported teacher's first batch norm: distance of means, standard deviations
    input_variance_drift: float | None = None  # likewise: difference of variances, as a share of its own

    top1_last: float | None = None  # test accuracy after the last epoch: the headline
    top1_best: float | None = None  # best test accuracy of all evaluated epochs; never a headline
    top5_last: float | None = None  # top-5 accuracy after the last epoch, with more than 5 classes
    val_top1_last: float | None = None  # validation accuracy, where a part of the training set is held out
    val_top5_last: float | None = None  # likewise top-5, with more than 5 classes
    agreement: float | None = None  # test images on which student and teacher predict the same class, per cent
    correlation_distance: float | None = None  # between the class correlations of student's and teacher's test logits

    wall_s: float | None = None  # training and evaluation of all epochs, seconds
    step_ms: float | None = None  # training step with its batch, milliseconds; median over epochs
    parameters: int | None = None  # of the network
    extra_parameters: int | None = None  # of the method's layers
    extra_buffers: int | None = None  # elements of the method's buffers
    inference_parameters: int | None = None  # parameters that a prediction of the final model uses
    init_epochs: int | None = None  # epochs of the initialization stage
    views: int | None = None  # augmented views of each image in a step
    precision: str | None = None  # fp32 or bf16
    changed_settings: tuple[str, ...] = ()  # dotted names of settings unlike the profile's and the method's defaults
    code_version: str | None = None  # hash of the method's source code
    engine_version: str | None = None  # hash of the source code of benchmark/ that training depends on
    commit: str | None = None  # of the git working tree that ran
    clean: bool | None = None  # whether benchmark/, methods/ and conf/ of the working tree had no uncommitted change
    sha256: str | None = None  # content hash of the weights
    versions: Mapping[str, Any] = field(default_factory=dict)  # of Python and libraries
    hardware: Mapping[str, Any] = field(default_factory=dict)  # device, its name, threads, processes of several

    problem: str | None = field(default=None, compare=False)  # why the record cannot be used; not persisted

    @property
    def is_sealed(self) -> bool:
        """True where a validation split chooses between runs: test accuracy is shown only for the chosen ones."""
        return self.val_top1_last is not None

    @classmethod
    def from_json(cls, content: Mapping[str, Any] | None) -> Self:
        """Return the record in a parsed result.json; None stands for a file that cannot be read.

        Raises nothing: `problem` says what is wrong with the content.
        """
        return read_result(cls, content)

    def to_json(self) -> dict[str, Any]:
        """Return the content of result.json, without the checksum."""
        nullable = NULLABLE if self.epochs is not None else ()
        nullable += (NULLABLE_STUDENT if self.student else ()) + (NULLABLE_PAIR if self.pair else ())
        values = {key: getattr(self, name) for name, key, _ in readers(RunRecord)}
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in values.items()
            if value is not None or key in nullable
        }


@dataclass(frozen=True)
class RunConfig:
    """Content of config.yaml, the resolved config of a run; None where a part of it is missing."""

    tree: Mapping[str, Any] = field(default_factory=dict)
    problem: str | None = None  # why the config cannot be used; None for a missing file, as old runs may have

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the config in a file; empty where the file is missing or broken.

        Raises nothing: `problem` says what is wrong with a file that is there.
        """
        try:
            tree = read_yaml(path)
        except FileNotFoundError:
            return cls()
        except OSError as e:
            return cls(problem=f"its config.yaml cannot be read: {e.strerror}")
        except ValueError as e:
            return cls(problem=f"its config.yaml is broken: {e}")
        return cls(tree, _config_problem(tree)) if isinstance(tree, dict) else cls(problem=_config_problem(tree))

    @property
    def profile(self) -> str | None:
        """Name of the profile."""
        return _text(self.tree.get("profile"))

    @property
    def validation(self) -> float:
        """Fraction of the training set that is held out."""
        return number(self.dataset.get("validation")) or 0.0

    @property
    def dataset(self) -> Mapping[str, Any]:
        """Options and fingerprint of the data set."""
        return self._part("dataset")

    @property
    def recipe(self) -> Mapping[str, Any]:
        """Options of the training recipe."""
        return self._part("recipe")

    @property
    def method(self) -> Mapping[str, Any]:
        """Name, implementation and options of the method."""
        return self._part("method")

    def flat(self) -> dict[str, Any]:
        """Return all values by dotted name; lists become tuples, mappings within lists become JSON."""
        return dict(_flat(self.tree))

    def _part(self, name: str) -> Mapping[str, Any]:
        part = self.tree.get(name)
        return part if isinstance(part, Mapping) else {}


def checksum(content: Mapping[str, Any]) -> str:
    """Return sixteen hex digits of the SHA-256 of a result's keys but `checksum` (as JSON with sorted keys)."""
    rest = {k: v for k, v in content.items() if k != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:16]


def _problem(content: Mapping[str, Any]) -> str | None:
    """Return why a parsed result.json says nothing about its run; None where it does."""
    top1 = content.get("top1_last")
    if not is_number(top1) or not 0 <= top1 <= 100:
        return f"its result.json has no top1_last from 0 to 100, but {json.dumps(top1)}"
    if "checksum" in content and content["checksum"] != checksum(content):
        return "its result.json was changed after it was written"
    return None


def _config_problem(tree: Any) -> str | None:
    """Why the content of a config.yaml is not one of a run; None where it is."""
    if not isinstance(tree, dict):
        return "its config.yaml holds no settings"
    for key in ("dataset", "recipe", "method"):
        if not isinstance(tree.get(key, {}), dict):
            return f"its config.yaml says {key}: {tree[key]}, which is no group of settings"
    if not isinstance(tree.get("profile", ""), str):
        return f"its config.yaml says profile: {tree['profile']}, which is no name"
    fraction = tree.get("dataset", {}).get("validation", 0.0)
    if not is_number(fraction) or not 0 <= fraction < 1:
        return f"its config.yaml says dataset.validation: {fraction}, which is no fraction"
    return None


def _status(value: Any) -> RunStatus | None:
    return _STATUSES.get(value) if isinstance(value, str) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def number(value: Any) -> float | None:
    """Return a number as it is; None for anything else, and for one of `LARGEST_NUMBER` or more."""
    return value if is_number(value) and abs(value) < LARGEST_NUMBER else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and number(value) is not None else None


def _flag(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list) else ()


def _flat(tree: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _frozen(value)


def _frozen(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_frozen(v) for v in value)
    return json.dumps(value, sort_keys=True) if isinstance(value, Mapping) else value


_STATUSES = {status.value: status for status in RunStatus}
_READER_OF_TYPE: dict[Any, Any] = {
    RunStatus | None: _status,
    str | None: _text,
    float | None: number,
    int | None: _whole,
    bool | None: _flag,
    Mapping[str, Any]: _mapping,
    tuple[str, ...]: _texts,
}


def read_result(record: Callable[..., Record], content: Mapping[str, Any] | None) -> Record:
    """Return the record of a class in a parsed result.json; None stands for a file that cannot be read.

    Raises nothing: the record's `problem` says what is wrong with the content.
    """
    if content is None:
        return record(problem=UNREADABLE)
    text = well_formed(content)  # the checksum is of the content as it is
    values = {name: read(text[key]) for name, key, read in readers(record) if key in text}
    return record(problem=_problem(content), **values)


@functools.cache
def readers(record: Any) -> list[tuple[str, str, Callable[[Any], Any]]]:
    """Return name, key on disk and reader of each field of a record class; a reader turns any JSON value into the
    field's type, or None."""
    return [
        (f.name, NAMES_ON_DISK.get(f.name, f.name), _READER_OF_TYPE[f.type])
        for f in dataclasses.fields(record)
        if f.name != "problem"
    ]
