"""One training run: a network trained by one method with one seed. `benchmark.grid.run` executes it."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import methods
from benchmark.config.schema import DatasetConfig
from benchmark.runs import folder as store
from benchmark.runs.folder import RunFolder
from benchmark.runs.record import TEACHERS
from benchmark.training.hardware import Hardware

BUSY = "busy"  # outcome of a run that another process holds


class RunKind(NamedTuple):
    """What runs of a plan share that take the same time: all but the seed. teacher: None where it is not read."""

    role: str  # teacher or student; a teacher may have more training images than its students
    teacher: str | None
    network: str
    method: str

    @property
    def time_key(self) -> tuple[str | None, str, str]:
        """What the time of a step depends on: teacher, network and method."""
        return self[1:]


@dataclass(frozen=True)
class RunSettings:
    """Where a run reads and writes, on what it computes, and how often it is evaluated: settings that its training does
    not depend on.

    They are not part of its identity.
    """

    runs: Path  # root of all runs
    data: Path  # root of all data sets
    hardware: Hardware
    cache_gb: float  # size limit of a teacher's cache; 0: no cache
    seeds: int  # number of seeds of the command, each of which reads the teacher's cache
    evaluate_every: int = 1  # epochs between two evaluations, counted back from the last
    cache_dir: str | None = None  # folder of the caches on the machine that trains; None: the teacher's run folder
    recipe: str | None = None  # name of the recipe, as results record it


@dataclass(frozen=True)
class TrainingRun:
    """A picklable description of one run."""

    config: Mapping[str, Any]  # resolved; `role` is student or teacher; its hash without the seed is the identity
    dataset: DatasetConfig  # with the paths to load it from
    about: Mapping[str, Any]  # title, year, family, … of the method
    settings: RunSettings
    teacher_run: str | None = None  # the teacher's run folder, relative to the root of all runs
    unsupported_reason: str | None = None  # why the method does not support the pair
    finished_copy: str | None = None  # folder of an older finished run that equals this one, relative likewise
    changed_settings: tuple[str, ...] = ()  # dotted names of settings unlike the profile's and the method's defaults

    @property
    def identity(self) -> str:
        """Hash of the config without the seed."""
        return store.identity(self.config)

    @property
    def pair(self) -> str:
        """`<teacher>-<student>`; the student for a run without a teacher; for a teacher the name of the folder that
        holds teachers."""
        if self.config["role"] == "teacher":
            return TEACHERS
        if "teacher" not in self.config:
            return self.config["student"]
        return f"{self.config['teacher']['network']}-{self.config['student']}"

    @property
    def method(self) -> str:
        """Name of the method; for a teacher of its network, by which its folder is called."""
        return self.network if self.config["role"] == "teacher" else self.config["method"]["name"]

    @property
    def network(self) -> str:
        """Name of the network that is trained."""
        return self.config["student" if self.config["role"] == "student" else "network"]

    @property
    def kind(self) -> RunKind:
        """What the time of the run depends on, within a plan."""
        teacher = self.config["teacher"]["network"] if self.teacher_run is not None else None
        return RunKind(self.config["role"], teacher, self.network, self.config["method"]["name"])

    @property
    def code_version(self) -> str:
        """Version of the method's source code in this process."""
        return methods.code_version(self.config["method"]["implementation"])

    @property
    def relative_path(self) -> str:
        """The run's folder, relative to the root of all runs."""
        if self.finished_copy is not None:
            return self.finished_copy
        leaf = f"seed={self.config['seed']}" if "seed" in self.config else "imported"
        pair, method = store.folder_name(self.pair), store.folder_name(self.method)
        return f"{self.config['dataset']['name']}/{pair}/{method}/{self.identity}/{leaf}"

    @property
    def key(self) -> str:
        """Twelve hex digits that name the run before and after its teacher is trained."""
        config = dict(self.config)
        if self.teacher_run is not None:
            config["teacher"] = self.teacher_run
        return store.identity({"run": config})

    def taught_by(self, sha256: str) -> "TrainingRun":
        """Return the run with the content hash of its teacher, which was not yet trained."""
        teacher = {**self.config["teacher"], "sha256": sha256}
        return dataclasses.replace(self, config={**self.config, "teacher": teacher})

    @property
    def folder(self) -> RunFolder:
        """The run's folder."""
        return RunFolder(self.settings.runs / self.relative_path)

    @property
    def name(self) -> str:
        """Name of the run in messages."""
        if self.config["role"] == "teacher":
            return f"teacher {self.network}"
        return f"{self.pair} {self.method} seed {self.config['seed']}"


@dataclass(frozen=True)
class Outcome:
    """How a run ended, and why."""

    name: str  # of the run
    status: str  # a RunStatus, or BUSY
    reason: str = ""
    tracking: str = "off"  # mode of W&B at the end of the run
    seconds: float = 0.0  # that the run took in its place, starting of its process included; 0 where not known

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.name, self.status, self.reason)))
