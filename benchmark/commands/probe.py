"""A short probe of step times for `plan`: a few steps of each method on each pair, with random images.

The loop is that of training with a filled teacher cache, as `speed` times it, in far fewer samples.
"""

import gc
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmark.commands.speed_harness import STUDENT_ALONE, Measurement, SpeedHarness
from benchmark.grid.estimate import StepTimes
from benchmark.grid.plan import Plan, TimeKey
from benchmark.progress import Meter
from benchmark.tables.cells import counted

SAMPLES = 5  # timed samples of a loop; the median counts
GRAY = [0.5, 0.5, 0.5]  # mean and deviation where the images' are not known: no time depends on them


def probe(plan: Plan, words: Sequence[str], known_times: StepTimes) -> StepTimes:
    """Time what a plan trains and `known_times` lack; say on standard error what is timed."""
    data = replace(plan.config.dataset, mean=GRAY, std=GRAY)
    config = replace(plan.config, dataset=data, threads=plan.settings.hardware.threads)
    Path(config.runs).mkdir(parents=True, exist_ok=True)
    seconds: dict[TimeKey, float] = {}
    plan.settings.hardware.prepare()
    with tempfile.TemporaryDirectory(dir=config.runs) as caches:  # on the disk that holds the runs
        for pair in plan.pairs:
            precisions = plan.precision("teacher", pair[0]), plan.precision("student", pair[1])
            measurement = Measurement(config, words, *pair, rounds=1, samples=SAMPLES, precisions=precisions)
            loops = _loops(plan, measurement, *pair)
            missing = {key: loop for key, loop in loops.items() if key not in {*known_times.seconds, *seconds}}
            print(f"probe: {measurement.pair}, {counted(len(missing), 'loop')}", file=sys.stderr, flush=True)
            with Meter(f"probe {measurement.pair}", len(missing)) as meter:
                for key, (loop_measurement, name) in missing.items():
                    meter.move_to(meter.done, name)
                    seconds[key] = _seconds_per_step(SpeedHarness(loop_measurement), name, Path(caches))
                    gc.collect()  # a trainer is part of a reference cycle and would hold its memory in the next loop
                    meter.advance()
    return StepTimes(seconds, f"a probe of {counted(len(seconds), 'loop')}")


def _loops(plan: Plan, measurement: Measurement, teacher: str, student: str) -> dict[TimeKey, tuple[Measurement, str]]:
    """The training loops of a pair: of its teacher and of its students by each method, as measurement and method."""
    loops: dict[TimeKey, tuple[Measurement, str]] = {
        (None, teacher, STUDENT_ALONE): (measurement.teacher_training, STUDENT_ALONE)
    }
    for name in plan.config.methods:
        key = (teacher, student, name)
        if key not in plan.unsupported:
            measured_teacher = None if plan.needs_no_teacher(key) else teacher
            loops[measured_teacher, student, name] = (measurement.at_batch_size(plan.batch_size(key)), name)
    return loops


def _seconds_per_step(harness: SpeedHarness, name: str, caches: Path) -> float:
    loop, _ = harness.training_loop(name, caches)
    harness.warm_up(loop)
    loop.seconds += loop.run(SAMPLES, harness.wait)
    return loop.ms / 1000
