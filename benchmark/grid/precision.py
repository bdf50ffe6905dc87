"""The precision of each network's runs, fp32 or bf16, and why: as configured, or chosen where that is `auto`.

`auto` keeps the precision of earlier runs of the network on the same data with the same recipe, so that added seeds and
methods are comparable with them. Without any, it takes what a measurement of training steps says: bf16 where a step is
at least `LEAST_SPEEDUP` times as fast as in fp32. An imported teacher, which is not trained, is evaluated in fp32. Runs
on a cluster are not measured.

`<runs>/precision.json` keeps the measurements, by hardware, torch version, network and sizes. No flag of a processor is
read: some have instructions for bf16 that are slower than those for fp32.
"""

import glob
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from benchmark.config.schema import Config
from benchmark.errors import UserError
from benchmark.runs import folder as store
from benchmark.runs.folder import RunFolder
from benchmark.runs.record import TEACHERS, RunStatus, number
from benchmark.training.hardware import Hardware, versions

LEAST_SPEEDUP = 1.15  # of bf16 over fp32: for less, the coarser numbers are not worth it
FILE_NAME = "precision.json"

Measure = Callable[[Config, Hardware, str], float]  # returns how many times as fast a network's step is in bf16


class Basis(Enum):
    """What a precision follows from."""

    CONFIGURED = "configured"  # `precision=fp32` or `precision=bf16`
    EARLIER_RUNS = "earlier runs"
    MEASURED = "measured"
    UNMEASURED = "unmeasured"  # undecided: plans show fp32, and nothing is trained
    EVALUATED = "evaluated"  # an imported teacher


@dataclass(frozen=True)
class Precision:
    """The precision of a network's runs. speedup: of a training step in bf16 over fp32, where it was measured."""

    value: str  # fp32 or bf16
    basis: Basis
    speedup: float | None = None

    @property
    def decided(self) -> bool:
        """False where a measurement must decide before anything is trained."""
        return self.basis != Basis.UNMEASURED


# ---------------------------------------------------------------- choice


@dataclass(frozen=True)
class PrecisionChooser:
    """Chooses the precision of each network that a command trains.

    measure: times training steps; None where nothing may be timed, which leaves networks undecided that were not
    measured before.
    """

    config: Config
    hardware: Hardware
    measure: Measure | None = None

    def choose(self, network: str, run_config: Mapping[str, Any]) -> Precision:
        """Return the precision for a network's runs. run_config: the parts of a run's config that its earlier runs must
        share: role, data set, network, recipe and profile, or `imported` in place of the recipe."""
        if self.config.precision != "auto":
            return Precision(self.config.precision, Basis.CONFIGURED)
        if earlier := earlier_precisions(Path(self.config.runs), network, run_config):
            most = max(earlier, key=lambda value: (earlier[value], value == "fp32"))
            return Precision(most, Basis.EARLIER_RUNS)
        return Precision("fp32", Basis.EVALUATED) if "imported" in run_config else self.faster(network)

    def faster(self, network: str) -> Precision:
        """Return the faster precision of a network's training steps, as measured now or before.

        Raises UserError for runs on a cluster, whose steps cannot be timed on this machine.
        """
        if self.config.precision != "auto":
            return Precision(self.config.precision, Basis.CONFIGURED)
        if (executor := self.config.executor.name) != "local":
            raise UserError(
                f"precision=auto: no earlier runs of {network} decide it, and this machine cannot time steps on those "
                f"of executor={executor}: give precision=bf16 or precision=fp32"
            )
        measurements = Measurements(Path(self.config.runs) / FILE_NAME)
        conditions = measured_conditions(self.config, self.hardware, network)
        speedup = measurements.find(conditions)
        if speedup is None and self.measure is not None:
            speedup = measurements.find_or_add(conditions, self._measure_aloud)
        if speedup is None:
            return Precision("fp32", Basis.UNMEASURED)
        return Precision("bf16" if speedup >= LEAST_SPEEDUP else "fp32", Basis.MEASURED, speedup)

    def _measure_aloud(self, conditions: Mapping[str, Any]) -> float:
        network = conditions["network"]
        print(f"precision=auto: timing steps of {network} in fp32 and bf16", file=sys.stderr, flush=True)
        assert self.measure is not None
        return self.measure(self.config, self.hardware, network)


def earlier_precisions(runs: Path, network: str, run_config: Mapping[str, Any]) -> Counter[str]:
    """Return the precisions of the runs that were started with the same parts of their config, and how many have each.

    Runs of all methods and teachers count: tables compare them.
    """
    dataset, folder = glob.escape(run_config["dataset"]["name"]), store.folder_name(network)
    students = (f"{dataset}/{folder}/*/*", f"{dataset}/*-{folder}/*/*")
    patterns = (f"{dataset}/{TEACHERS}/{folder}/*",) if run_config["role"] == "teacher" else students
    counts: Counter[str] = Counter()
    for path in sorted(path for pattern in patterns for path in runs.glob(pattern)):
        started = [run for run in map(RunFolder, sorted(path.iterdir())) if run.status not in (None, RunStatus.SKIPPED)]
        tree = started[0].config.tree if started else {}
        if tree.get("precision") in ("fp32", "bf16") and _shares(tree, run_config):
            counts[tree["precision"]] += len(started)
    return counts


def _shares(tree: Mapping[str, Any], run_config: Mapping[str, Any]) -> bool:
    """Return whether a recorded config has the parts of `run_config`; of `imported` it may have any value."""
    if ("imported" in tree) != ("imported" in run_config):
        return False
    return all(tree.get(key) == value for key, value in run_config.items() if key != "imported")


# ---------------------------------------------------------------- measurements on disk


def measured_conditions(config: Config, hardware: Hardware, network: str) -> dict[str, Any]:
    """Return what a measurement holds for. torch.compile is not part of it: steps are timed without."""
    return {
        "hardware": hardware.name,
        "model": hardware.model,
        "device": hardware.device,
        "threads": hardware.threads,
        "cuda_graph": hardware.graphs,
        "torch": versions()["torch"],
        "network": network,
        "batch_size": config.recipe.batch_size,
        "image_size": config.dataset.size,
    }


@dataclass(frozen=True)
class Measurements:
    """The file of measurements: {"measurements": [{**conditions, "bf16_speedup": 1.87}, …]}.

    What is not such an entry, in a damaged or foreign file, is left out; a new measurement replaces it.
    """

    path: Path

    def find(self, conditions: Mapping[str, Any]) -> float | None:
        """Return the speedup that was measured under the conditions; None where there is none."""
        return next((e["bf16_speedup"] for e in self._entries() if _conditions_of(e) == dict(conditions)), None)

    def find_or_add(self, conditions: Mapping[str, Any], measure: Callable[[Mapping[str, Any]], float]) -> float:
        """Return the speedup under the conditions; measure and store it where it is missing.

        A lock makes processes that start together measure one after another, and all follow the first measurement.
        """
        with store.lock(self.path.with_name(f"{self.path.name}.lock"), wait=True):
            speedup = self.find(conditions)
            if speedup is None:
                speedup = round(measure(conditions), 4)
                entry = {**conditions, "bf16_speedup": speedup}
                store.write_json(self.path, {"measurements": [*self._entries(), entry]})
        return speedup

    def _entries(self) -> list[dict[str, Any]]:
        entries = (store.read_json(self.path) or {}).get("measurements")
        return [e for e in entries if _is_measurement(e)] if isinstance(entries, list) else []


def _is_measurement(entry: Any) -> bool:
    speedup = number(entry.get("bf16_speedup")) if isinstance(entry, dict) else None
    return speedup is not None and speedup > 0


def _conditions_of(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key != "bf16_speedup"}


# ---------------------------------------------------------------- text


def describe(precisions: Mapping[tuple[str, str], Precision], runs: Path) -> list[str]:
    """Return lines that say which precision each network's runs have, and why. precisions: by role and network."""
    groups: dict[tuple[str, Basis], dict[str, float | None]] = {}  # speedups by network
    for (_, network), precision in precisions.items():
        groups.setdefault((precision.value, precision.basis), {})[network] = precision.speedup
    return [_line(value, basis, speedups, runs) for (value, basis), speedups in groups.items()]


def _line(value: str, basis: Basis, speedups: Mapping[str, float | None], runs: Path) -> str:
    """Return the line about networks that share a precision and its basis."""
    names = ", ".join(speedups)
    measured = ", ".join(f"{speedup:.2f} × for {network}" for network, speedup in speedups.items() if speedup)
    if basis == Basis.MEASURED and value == "bf16":
        return f"precision bf16: its training steps are faster than those in fp32, {measured} (measured)"
    return {
        Basis.CONFIGURED: f"precision {value}: {names}",
        Basis.EARLIER_RUNS: f"precision {value}: {names}, as in earlier runs with these settings in {runs}",
        Basis.MEASURED: f"precision fp32: bf16 is not at least {LEAST_SPEEDUP:g} × as fast, but {measured} (measured)",
        Basis.UNMEASURED: f"precision of {names}: measured when training starts, or now by PROBE=1",
        Basis.EVALUATED: f"precision {value}: {names}, imported and therefore not measured",
    }[basis]
