"""Linear probes of the students of a result group: how well their features serve other data sets.

Of each target, probes of one protocol and one content of the data set are shown: those of CRD's protocol where there
are any, else those of most runs. The probes of a target make a result group like that of the students, with their
accuracies in the columns `top1_last` and `top5_last`, so that the same statistics and tests apply.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pandas as pd

from analysis import published
from analysis.groups import ResultGroup, SeedGroup
from benchmark.config.command_options import load_options
from benchmark.config.overrides import value_text
from benchmark.config.schema import TransferOptions
from benchmark.runs.record import RunConfig, RunStatus
from benchmark.runs.transfer import TransferFolder, TransferRecord, transfers
from benchmark.tables.cells import counted

RECIPE = "probe."  # prefix of the keys of a probe's config that are those of its recipe
AUGMENTATION = ("padding", "flip")  # keys of its data set that the protocol fixes


@dataclass(frozen=True)
class StudentProbe:
    """A finished probe of a run."""

    run: Path
    folder: TransferFolder
    record: TransferRecord


@dataclass(frozen=True)
class Target:
    """The probes of a group's students on one data set.

    group: the students with the accuracies of their probes in place of their own. config: of the probes. notes: which
    probes are not shown.
    """

    name: str
    identity: str
    group: ResultGroup
    config: RunConfig
    probes: Mapping[Path, StudentProbe]
    notes: Sequence[str]

    def published(self, pair: str, method: str, metric: str) -> published.Published | None:
        """Return the published accuracy of a probe of a method's student, or of a baseline; None where there is none
        or ours is of a student that was trained on a part of the training set."""
        if self.group.is_sealed:
            return None
        probed = published.probe_name(self.name, self.group.dataset)
        return published.find(probed, *self.group.networks[pair], method, metric)

    @property
    def recipe(self) -> Mapping[str, Any]:
        """The recipe of the probes."""
        recipe = self.config.tree.get("probe")
        return recipe if isinstance(recipe, Mapping) else {}

    @property
    def changed_settings(self) -> list[str]:
        """The settings unlike the protocol's, with their values."""
        return changed_settings(self.config)


def changed_settings(config: RunConfig) -> list[str]:
    """Return the settings of a probe that are unlike those of the protocol, with their values."""
    defaults, values = vars(load_options("transfer", TransferOptions, [])[0]), config.flat()
    keys = {key: f"{RECIPE}{key}" for key in defaults} | {key: f"dataset.{key}" for key in AUGMENTATION}
    return [
        f"{name} {value_text(_plain(values[key]))}"
        for name, key in keys.items()
        if key in values and _plain(values[key]) != defaults[name]
    ]


def collect(group: ResultGroup, root: Path, names: Sequence[str] = ()) -> list[Target]:
    """Return the targets that students of a group were probed on, by name.

    root: the folder of all runs, below which the teachers are. names: only these targets.
    """
    recorded = {str(row["teacher_run"]): row["teacher_sha256"] for row in group.runs.to_dict("records")}
    students = dict(zip(group.runs.folder, group.runs.sha256, strict=True))
    teachers = {root / run: sha256 for run, sha256 in recorded.items() if isinstance(sha256, str)}
    probes, stale = _finished_probes({**students, **teachers})
    by_target: dict[str, list[StudentProbe]] = {}
    for probe in probes:
        by_target.setdefault(probe.folder.path.parent.name, []).append(probe)
    targets = []
    for name, of_target in sorted(by_target.items()):
        if (not names or name in names) and (target := _target(group, root, name, of_target, students)):
            targets.append(target)
    if stale and targets:
        note = f"{counted(stale, 'probe')} of weights that a run no longer has: repeat the command"
        targets[0] = replace(targets[0], notes=[*targets[0].notes, note])
    return targets


def _finished_probes(runs: Mapping[Path, Any]) -> tuple[list[StudentProbe], int]:
    """Return the finished probes of runs, and the number of those of other weights. runs: their weights' hashes."""
    probes, stale = [], 0
    for run, sha256 in runs.items():
        for folder in transfers(run):
            record = folder.result
            if folder.status is not RunStatus.DONE or record.problem is not None:
                continue
            if (folder.path.parent.name, folder.path.name) != (record.target, record.identity):
                continue  # copied there from another one
            if isinstance(sha256, str) and record.student_sha256 != sha256:
                stale += 1
                continue
            probes.append(StudentProbe(run, folder, record))
    return probes, stale


def _target(
    group: ResultGroup, root: Path, name: str, probes: Sequence[StudentProbe], students: Mapping[Path, Any]
) -> Target | None:
    """Return one target with the probes of its main protocol; None where no student has one."""
    counts = Counter(probe.record.identity for probe in probes if probe.run in students)
    if not counts:
        return None
    configs = {probe.record.identity: probe.folder.config for probe in probes}
    identity = min(counts, key=lambda i: (bool(changed_settings(configs[i])), -counts[i], str(i)))
    main_probes = {probe.run: probe for probe in probes if probe.record.identity == identity}
    main = next(iter(main_probes.values())).folder.config
    notes = [
        _other_protocol(name, [p for p in probes if p.record.identity == i], main) for i in counts if i != identity
    ]
    return Target(name, str(identity), _with_probes(group, root, main_probes), main, main_probes, notes)


def _other_protocol(name: str, probes: Sequence[StudentProbe], main: RunConfig) -> str:
    """Say how many probes differ from the main ones, and in which settings."""
    ours, theirs = main.flat(), probes[0].folder.config.flat()
    keys = sorted(key for key in theirs if key.startswith((RECIPE, "dataset.")) and theirs[key] != ours.get(key))
    settings = ", ".join(f"{key.removeprefix(RECIPE)} {value_text(_plain(theirs[key]))}" for key in keys)
    return f"{counted(len(probes), 'probe')} on {name} with {settings or 'another protocol'}"


def _with_probes(group: ResultGroup, root: Path, probes: Mapping[Path, StudentProbe]) -> ResultGroup:
    """Return a group with the accuracies of probes in place of those of its runs; runs without a probe are left out."""
    rows = []
    for row in group.rows:
        seed_groups = {pair: _of_probes(seed_group, probes) for pair, seed_group in row.seed_groups.items()}
        with_probes = {pair: seed_group for pair, seed_group in seed_groups.items() if seed_group.n}
        rows += [replace(row, seed_groups=with_probes)] if with_probes else []
    pairs = [pair for pair in group.pairs if any(pair in row.seed_groups for row in rows)]
    teacher_runs = dict(zip(group.runs.pair, group.runs.teacher_run, strict=True))
    of_teachers = {pair: probes.get(root / str(teacher_runs[pair])) for pair in pairs}
    records = {pair: probe.record for pair, probe in of_teachers.items() if probe}
    top1 = {pair: record.top1_last for pair, record in records.items() if record.top1_last is not None}
    top5 = {pair: record.top5_last for pair, record in records.items() if record.top5_last is not None}
    teachers = [replace(teacher, top1=top1, top5=top5) for teacher in group.teachers[:1] if top1]
    runs = pd.concat([s.runs for row in rows for s in row.seed_groups.values()])
    return replace(group, pairs=pairs, rows=rows, teachers=teachers, runs=runs)


def _of_probes(seed_group: SeedGroup, probes: Mapping[Path, StudentProbe]) -> SeedGroup:
    runs = cast(pd.DataFrame, seed_group.runs[seed_group.runs.folder.isin(list(probes))])
    records = [probes[folder].record for folder in runs.folder]
    top1, top5 = [_number(r.top1_last) for r in records], [_number(r.top5_last) for r in records]
    return SeedGroup(runs.assign(top1_last=top1, top5_last=top5, top1_best=math.nan), seed_group.config)


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
