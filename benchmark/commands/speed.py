"""`speed`: time a training step of every method, in one process after another on one machine.

Three loops are timed for every method: this suite's with a filled teacher cache, this suite's with a live teacher, and
the reference loop, the usual one of the field's code (`reference_loop`). They and the student alone take turns, a few
steps each, so that a drift of the machine affects all of them alike. The keys of the results are persisted.
"""

import gc
import itertools
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.backends import cudnn
from torch.backends.cuda import matmul

from benchmark import networks
from benchmark.commands.bf16_speedup import bf16_speedup
from benchmark.commands.speed_harness import (
    CLASSES,
    STUDENT_ALONE,
    Measurement,
    SpeedHarness,
    SubprocessLoop,
    batches,
)
from benchmark.commands.timed_loop import TimedLoop, take_turns
from benchmark.config.command_options import load_options
from benchmark.config.compose import FULL_EPOCHS, load_config
from benchmark.config.schema import RESIZED_CROP, Config, SpeedOptions
from benchmark.data.loader import Loader
from benchmark.errors import UserError
from benchmark.grid.executors import Processes
from benchmark.grid.precision import PrecisionChooser, describe
from benchmark.progress import Meter
from benchmark.runs import folder
from benchmark.tables import speed as speed_table
from benchmark.training.evaluation import count_parameters
from benchmark.training.hardware import Hardware, versions
from benchmark.training.trainer import Trainer
from methods.options import dotted_names

CLOSE = 1.3  # both precisions are timed up to this ratio of their times
LOOPS = {"cached": "step_ms", "live": "live_step_ms", "plain": "plain_step_ms"}  # persisted names, keys of their times


def run(words: Sequence[str]) -> int:
    """Measure each pair, print its table, write <reports>/speed/<pair>.json and .md; return the exit status.

    After each method the files are written with the methods so far. Raises UserError for a data set whose mean and
    standard deviation would have to be computed from images, which are not read here.
    """
    options, overrides = load_options("speed", SpeedOptions, words)
    overrides = [*overrides, f"profile={options.profile}"]
    config = load_config(overrides, dotted_names(SpeedOptions))
    if config.distributed:
        raise UserError("speed times the steps of one process: leave out distributed=true")
    if config.executor.name != "local":
        raise UserError("speed times this machine: leave out executor=")
    if config.dataset.mean is None or config.dataset.std is None:
        raise UserError(f"speed reads no images, so {config.dataset.name} needs dataset.mean= and dataset.std=")
    written = []
    for pair in config.pair:
        teacher, student = networks.split_pair(pair)
        path, text = Path(config.reports) / "speed" / folder.folder_name(f"{teacher}-{student}.json"), ""
        for result in measure(plan_measurement(config, overrides, teacher, student, options)):
            text = speed_table.document(result, rounds=options.rounds, steps=options.steps, epochs=FULL_EPOCHS)
            folder.write_json(path, result)
            folder.write_text(path.with_suffix(".md"), text)
        print(text, flush=True)
        written += [path, path.with_suffix(".md")]
    for path in written:
        print(f"written: {path}", file=sys.stderr)
    return 0


def plan_measurement(
    config: Config, words: Sequence[str], teacher: str, student: str, options: SpeedOptions
) -> Measurement:
    """Return what is measured for a pair. `precision=auto` is decided as in training, by measurement; where the two
    precisions are close for the student, both are timed."""
    hardware = Hardware.resolve(config.device, config.threads, 1, config.compile, config.cuda_graph)
    chooser = PrecisionChooser(config, hardware, bf16_speedup)
    precisions = chooser.faster(teacher), chooser.faster(student)
    speedup, other = precisions[1].speedup, None
    if speedup is not None and 1 / CLOSE <= speedup <= CLOSE:
        other = "fp32" if precisions[1].value == "bf16" else "bf16"
    for line in describe({("teacher", teacher): precisions[0], ("student", student): precisions[1]}, Path(config.runs)):
        print(line, file=sys.stderr)
    values = precisions[0].value, precisions[1].value
    return Measurement(config, words, teacher, student, options.rounds, options.steps, values, other)


def measure(measurement: Measurement) -> Iterator[dict[str, Any]]:
    """Time everything for one pair; yield the content of <reports>/speed/<pair>.json after each method."""
    config, harness = measurement.config, SpeedHarness(measurement)
    harness.hardware.prepare()
    unsupported = {name: reason for name in config.methods if (reason := harness.unsupported_reason(name))}
    names = [name for name in config.methods if name not in unsupported]
    if not names:
        raise UserError(f"nothing to time: {next(iter(unsupported.values()))}")
    rows: list[dict[str, Any]] = []
    Path(config.runs).mkdir(parents=True, exist_ok=True)
    with (
        Meter(f"speed {measurement.pair}", len(names) + 1) as meter,
        tempfile.TemporaryDirectory(dir=config.runs) as caches,
    ):  # on the disk that holds the runs
        meter.move_to(0, "training of the teacher")
        teacher_ms = time_teacher_training(measurement)
        matmul_rate, pipeline_rate = measure_matmul_rate(harness), measure_pipeline_rate(harness)
        streaming = measure_photographs(harness)
        # on a GPU, warming up reports the peak
        peaks = peak_memory_of_each(measurement, names) if harness.hardware.device == "cpu" else {}
        for name in names:
            meter.move_to(1 + len(rows), name)
            gc.collect()  # a trainer is part of a reference cycle, and would count towards the next method's peak
            rows.append(time_method(harness, name, Path(caches), matmul_rate, peaks.get(name)))
            yield {
                "pair": measurement.pair,
                "batch_size": harness.batch_size,
                "image_size": config.dataset.size,
                "precision": harness.precision,
                "teacher_precision": measurement.precisions[0],
                "other_precision": measurement.other_precision,
                "burst": harness.steps_per_sample,
                "rows": rows,
                "impossible": unsupported,
                "pipeline_images_per_s": pipeline_rate,
                "streaming": streaming,
                "matmul_gflops": matmul_rate / 1e9,
                "teacher_training_step_ms": teacher_ms,
                "seeds": len(config.seeds),
                "whole_pair": pair_hours(harness, teacher_ms, rows),
                "hardware": harness.hardware.describe(),
                "versions": versions(),
            }


def time_method(
    harness: SpeedHarness, name: str, caches: Path, matmul_rate: float, peak_mb: float | None
) -> dict[str, Any]:
    """Time all loops of one method; return its row. peak_mb: its peak memory on a CPU."""
    measurement = harness.measurement
    with SubprocessLoop(measurement, name) as reference:  # starts while this process fills its cache
        cached, trainer = harness.training_loop(name, caches)
        peak_mb = harness.warm_up(cached) or peak_mb
        loops = {
            "alone": harness.training_loop(STUDENT_ALONE, None)[0],
            "live": harness.training_loop(name, None)[0],
            "plain": reference,
            "teacher": harness.teacher_loop(trainer),
        }
        if measurement.other_precision is not None:
            loops["other"] = harness.training_loop(name, caches, measurement.other_precision)[0]
        for loop in loops.values():
            harness.warm_up(loop)
        loops["cached"] = cached
        take_turns(list(loops.values()), measurement.rounds, measurement.samples, harness.wait)
    return method_row(harness, name, loops, trainer, matmul_rate, peak_mb)


def time_teacher_training(measurement: Measurement) -> dict[str, float]:
    """Return milliseconds per step of the teacher's own training, in this suite's loop and in the reference loop."""
    harness = SpeedHarness(measurement.teacher_training)
    with SubprocessLoop(measurement.teacher_training, STUDENT_ALONE) as reference:
        loops = {"ours": harness.training_loop(STUDENT_ALONE, None)[0], "plain": reference}
        for loop in loops.values():
            harness.warm_up(loop)
        take_turns(list(loops.values()), measurement.rounds, measurement.samples, harness.wait)
    return {name: loop.ms for name, loop in loops.items()}


def method_row(
    harness: SpeedHarness, name: str, loops: Mapping[str, TimedLoop], trainer: Trainer, matmul_rate: float,
    peak_mb: float | None,
) -> dict[str, Any]:  # fmt: skip
    """Return one method's row. The share of the matmul rate counts the networks' multiplications, not the method's."""
    cached, live, reference, teacher, alone = (loops[n] for n in ("cached", "live", "plain", "teacher", "alone"))
    outputs, size = trainer.teacher_outputs, harness.dataset.config.size
    work = 3 * networks.multiplications(harness.student, CLASSES, size) * trainer.method.requires.views
    needs = outputs.requires.teacher
    work += outputs.live_passes * networks.multiplications(harness.teacher, CLASSES, size, needs)
    parameters, buffers = count_parameters(trainer.method)
    return {
        "method": name,
        "family": harness.method_config(name).about["family"],
        "step_ms": cached.ms,
        "step_ms_iqr": cached.interquartile_ms,
        "step_drift": cached.drift / alone.drift,
        "images_per_s": 1000 * harness.batch_size / cached.ms,
        "student_ms": alone.ms,  # in the same rounds
        "ratio_to_student": cached.ms / alone.ms,
        "teacher_part_ms": teacher.ms,
        "ratio_to_student_and_teacher_part": cached.ms / (alone.ms + teacher.ms),
        "live_step_ms": live.ms,
        "plain_step_ms": reference.ms,
        "other_step_ms": loops["other"].ms if "other" in loops else None,
        "speedup_over_plain": reference.ms / cached.ms,
        "share_of_matmul_rate": 2 * work * harness.batch_size / (cached.ms / 1000) / matmul_rate,
        "peak_mb": peak_mb,
        "pre_epochs": trainer.method.requires.init_epochs,
        "extra_parameters": parameters,
        "extra_buffers": buffers,
        **cache_costs(trainer),
    }


def cache_costs(trainer: Trainer) -> dict[str, Any]:
    """Return kinds of rows, size and fill time of the cache, and of one seed's cache of strong views; 0 without one."""
    costs: dict[str, Any] = {}
    outputs = trainer.teacher_outputs
    for name, cache in itertools.zip_longest(("cache", "second_cache"), outputs.caches):
        kinds = list(cache.rows) if cache else []
        rows = cache.header.samples * cache.header.columns if cache else 0
        costs[f"{name}_kinds"] = kinds
        costs[f"{name}_gb"] = cache.header.gigabytes(kinds) if cache else 0.0
        costs[f"{name}_fill_s"] = rows * outputs.seconds_per_row(cache.needs, outputs.fill_batch) if cache else 0.0
    return costs


def measure_matmul_rate(harness: SpeedHarness) -> float:
    """Return floating-point operations per second of the device's own matrix product.

    Its precision is that of the convolutions in the runs, which on a GPU is TF32 where that of products is not.
    """
    device = harness.hardware.device
    n = 8192 if device == "cuda" else 2048
    a = torch.randn(n, n, device=device).to(torch.bfloat16 if harness.precision == "bf16" else torch.float32)
    previous, matmul.allow_tf32 = matmul.allow_tf32, cudnn.allow_tf32
    seconds = TimedLoop(lambda: a @ a).run(6, harness.wait)
    matmul.allow_tf32 = previous
    return 2 * n**3 / min(seconds)


def measure_pipeline_rate(harness: SpeedHarness) -> float:
    """Return images per second of the input pipeline alone: the median over samples."""
    loader = Loader(
        harness.dataset.images_in_memory, harness.dataset.config, harness.batch_size, 0, harness.hardware.device
    )
    stream = batches(loader)
    next(stream)
    loop = TimedLoop(lambda: next(stream), steps_per_sample=harness.steps_per_sample)
    return harness.batch_size / statistics.median(loop.run(300, harness.wait))


def measure_photographs(harness: SpeedHarness) -> dict[str, Any] | None:
    """Return what `measure_streaming` does for a data set of random crops of photographs, None for another."""
    config = harness.config.dataset
    if config.augmentation != RESIZED_CROP:
        return None
    from benchmark.commands.streaming_speed import measure_streaming  # imports torchvision's transforms

    device, folder = harness.hardware.device, Path(harness.config.runs)
    return measure_streaming(config, harness.batch_size, device, folder, harness.wait)


def peak_memory_of_each(measurement: Measurement, names: Sequence[str]) -> dict[str, float | None]:
    """Return the peak memory of a few cached steps of each method in MB, each in a fresh process."""
    with Processes(1) as pool:
        return {name: pool.submit(peak_memory, measurement, name).result() for name in names}


def peak_memory(measurement: Measurement, name: str) -> float | None:
    """Return the peak memory in MB of this process, after steps of a method; None where the system does not report it.

    Pages of files, such as libraries and the cache, do not count: the system keeps as many as it likes.
    """
    harness = SpeedHarness(measurement)
    harness.hardware.prepare()
    with tempfile.TemporaryDirectory(dir=measurement.config.runs) as caches:
        harness.warm_up(harness.training_loop(name, Path(caches))[0])
    # not getrusage, whose peak a process inherits from the one that it was forked from
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
    peak_kb, files_kb = (int(fields[key].split()[0]) for key in ("VmHWM", "RssFile"))
    return (peak_kb - files_kb) * 1024 / 1e6


def pair_hours(
    harness: SpeedHarness, teacher_ms: Mapping[str, float], rows: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return hours of the teacher and of all methods so far over all seeds and 240 epochs, for each loop.

    A step of an initialization stage counts as one of the others.
    """
    steps, seeds = FULL_EPOCHS * len(harness.loader), len(harness.config.seeds)
    hours = {loop: steps * teacher_ms["plain" if loop == "plain" else "ours"] / 3.6e6 for loop in LOOPS}
    totals, cached_kinds, fill_s = [], set(), 0.0
    for n, row in enumerate(rows, start=1):
        # filled once for all methods that read the same; each seed has strong views of its own
        for name, times in (("cache", 1), ("second_cache", seeds)):
            new_kinds = {(name, kind) for kind in row[f"{name}_kinds"]} - cached_kinds
            cached_kinds |= new_kinds
            fill_s += times * row[f"{name}_fill_s"] if new_kinds else 0.0
        for loop, key in LOOPS.items():
            hours[loop] += seeds * steps * (1 + row["pre_epochs"] / FULL_EPOCHS) * row[key] / 3.6e6
        totals.append({"methods": n, "up_to": row["method"], **hours, "cached": hours["cached"] + fill_s / 3600})
    return totals
