"""`make speed`: what a training step costs, method by method, in one run.

Three loops are timed for every method: ours with a filled teacher cache, ours with a live teacher, and the field's
usual loop (`reference_loop`). They and the student alone take turns, a few steps each, so that a drift of the machine
falls on all alike. The usual loop has a process of its own, which is as it is where it is used: our allocator's
setting (`hardware.keep_freed_memory`) and the memory that other loops have freed would spare it a fifth of its time on
a CPU.
Images are random, in CIFAR-100's number and shape: no speed depends on what they show.
"""

import gc
import itertools
import multiprocessing
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch.backends import cudnn
from torch.backends.cuda import matmul

from benchmark import networks
from benchmark.commands.reference_loop import PlainTrainer
from benchmark.config import compose as configs
from benchmark.config.schema import Config, DatasetConfig
from benchmark.data.datasets import Dataset, Split
from benchmark.data.loader import Loader
from benchmark.errors import UserError
from benchmark.grid import plan as grid
from benchmark.grid.build import build_method, method_requirements
from benchmark.grid.executors import Processes
from benchmark.runs import folder as store
from benchmark.teacher.cache import cacheable_kinds
from benchmark.teacher.outputs import TeacherOutputs
from benchmark.training import capture
from benchmark.training.evaluation import count_parameters
from benchmark.training.hardware import Hardware, versions
from benchmark.training.seeding import seeded
from benchmark.training.trainer import Schedule, Trainer
from methods.contract import Batch, Method, UnsupportedPair

IMAGES, CLASSES = 50_000, 100
ROUNDS, STEPS = 8, 3  # rounds of every loop, and how often it is timed in a round
# steps of ours that are timed as one: a GPU is given its next steps while it works, so that one alone would seem slower
BURST = {"cpu": 1, "cuda": 20}
EPOCHS = 240  # of the runs whose whole cost is told
LOOPS = ("cached", "live", "plain")
STUDENT_ALONE = "ce"  # the method that all others are compared with


@dataclass
class Lane:
    """One loop of one method, and the seconds of its steps, of which `burst` are timed as one."""

    step: Callable[[], object]
    seconds: list[float] = field(default_factory=list)
    burst: int = 1

    def run(self, times: int, wait: Callable[[], object]) -> list[float]:
        """Take `times` bursts of steps; the seconds of a step in each."""
        taken = []
        for _ in range(times):
            wait()
            began = time.perf_counter()
            for _ in range(self.burst):
                self.step()
            wait()
            taken.append((time.perf_counter() - began) / self.burst)
        return taken

    def warm(self, wait: Callable[[], object]) -> None:
        """Take the steps before the one that is recorded, where steps are."""
        for _ in range(capture.WARMUP_STEPS):
            self.step()
        wait()

    @property
    def ms(self) -> float:
        return 1000 * statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Interquartile range in ms."""
        low, _, high = statistics.quantiles(self.seconds, n=4)
        return 1000 * (high - low)

    @property
    def drift(self) -> float:
        """Median of the last quarter of the steps over that of the first."""
        quarter = max(1, len(self.seconds) // 4)
        return statistics.median(self.seconds[-quarter:]) / statistics.median(self.seconds[:quarter])


class Apart(Lane):
    """The field's usual loop for a method in a process of its own, which ends with the context."""

    def __init__(self, config: Config, overrides: list[str], teacher: str, student: str, name: str) -> None:
        super().__init__(lambda: None)
        self._name = name
        # spawned, not forked: neither CUDA nor the thread pools of torch survive a fork
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_plain_steps, args=(theirs, config, overrides, teacher, student, name), daemon=True
        )
        self._process.start()
        theirs.close()

    def run(self, times: int, wait: Callable[[], object]) -> list[float]:
        """Have it take steps, while this process waits; the seconds of each."""
        try:
            self._pipe.send(times)
            return self._pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            raise UserError(
                f"the plain loop of {self._name} ended with status {self._process.exitcode} (-9: memory ran out); "
                "leave the method out of methods=, or use a smaller recipe.batch_size="
            ) from None

    def warm(self, wait: Callable[[], object]) -> None:
        self.run(capture.WARMUP_STEPS, wait)

    def __enter__(self) -> "Apart":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.join()
        self._pipe.close()


def _plain_steps(pipe: Connection, config: Config, overrides: list[str], teacher: str, student: str, name: str) -> None:
    """Take the steps that are asked for, until this process is ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes: the parent ends this one
    bench = Bench(config, overrides, teacher, student)
    torch.set_num_threads(bench.machine.threads)
    torch.backends.cudnn.benchmark = True  # as the field's code has it
    lane = bench.plain(name)
    while True:
        pipe.send(lane.run(pipe.recv(), bench.wait))


def _batches(loader: Loader, views: int = 1) -> Iterator[Batch]:
    """Those of one epoch after another."""
    return itertools.chain.from_iterable(loader.epoch(epoch, views) for epoch in itertools.count(1))


def stand_in(config: DatasetConfig) -> Dataset:
    """Random images in the shape of CIFAR-100's training set."""
    random = torch.Generator().manual_seed(0)
    images = torch.randint(256, (IMAGES, 3, config.size, config.size), dtype=torch.uint8, generator=random)
    split = Split(images.contiguous(memory_format=torch.channels_last), torch.arange(IMAGES) % CLASSES)
    return Dataset("random", split, split, None, tuple(map(str, range(CLASSES))), "0" * 64, config)


class Bench:
    """All that is timed for one pair."""

    def __init__(self, config: Config, overrides: list[str], teacher: str, student: str) -> None:
        self.config, self.overrides = config, overrides
        self.teacher, self.student = teacher, student
        self.machine = Hardware.resolve(config.device, config.threads, 1, config.compile, config.cuda_graph)
        self.precision = self.machine.resolve_precision(config.precision)
        self.dataset = stand_in(config.dataset)
        recipe = grid.network_recipe(config, student)
        self.batch = recipe["batch_size"]
        # one for all loops: it keeps no state between epochs, and the images are large
        self.loader = Loader(self.dataset.train, self.dataset.config, self.batch, 0, self.machine.device)
        self.schedule = Schedule.from_recipe(recipe)
        # what a loop of ours takes is within one epoch, as an epoch begins with a recording
        bursts = 1 + ROUNDS * STEPS
        self.burst = min(BURST[self.machine.device], max(1, (len(self.loader) - 1 - capture.WARMUP_STEPS) // bursts))
        self.steps = capture.WARMUP_STEPS + bursts * self.burst

    def wait(self) -> None:
        """Until the device has done all it was given."""
        if self.machine.device == "cuda":
            torch.cuda.synchronize()

    def network(self, name: str, *, plain: bool) -> networks.Network:
        """A network on the device, in the memory format of the plain loop (NCHW) or of ours (channels-last)."""
        with seeded(name, 0):
            network = networks.build(name, CLASSES)
        return network.to(self.machine.device) if plain else network.to(
            self.machine.device, memory_format=torch.channels_last
        )  # fmt: skip

    def method(self, name: str) -> Method:
        """A method with its published options for the pair, as a cell builds it."""
        options = configs.method(name, f"{self.teacher}-{self.student}", self.overrides).resolved()
        return build_method(
            options, self.student, self.teacher, self.dataset, EPOCHS, 0, self.machine.device,
            self.network(self.teacher, plain=False),
        )  # fmt: skip

    def impossible(self, name: str) -> str | None:
        """Why a method cannot be on the pair; None where it can."""
        options = configs.method(name, f"{self.teacher}-{self.student}", self.overrides).resolved()
        try:
            method_requirements(options, self.student, self.teacher, self.dataset)
        except UnsupportedPair as e:
            return str(e)
        return None

    def trainer(self, name: str) -> Trainer:
        """Our loop for a method, with a live teacher."""
        teacher = self.network(self.teacher, plain=False).eval().requires_grad_(False)
        method = self.method(name)
        teacher_outputs = TeacherOutputs(
            teacher, method.requires, self.loader, device=self.machine.device, precision=self.precision
        )
        return Trainer(
            self.network(self.student, plain=False), method, teacher_outputs, self.schedule,
            compiled=self.machine.compiled, capture=capture.cuda_graph if self.machine.graphs else None,
        )  # fmt: skip

    def ours(self, name: str, root: Path | None) -> tuple[Lane, Trainer]:
        """Our loop; with a cache under `root`, filled for the batches to come, where that is given."""
        trainer = self.trainer(name)
        trainer.network.train()
        outputs, views = trainer.teacher_outputs, trainer.method.requires.views
        if root is not None and cacheable_kinds(outputs.requires.teacher) is not None:
            limit = self.config.teacher.cache_gb
            lines = outputs.open_caches(root, trainer.method.context, self.teacher, "random", limit)
            for cache, line in zip(outputs.caches, lines, strict=True):
                if cache is None:
                    print(line, file=sys.stderr)
            for batch in itertools.islice(_batches(trainer.loader, views), self.steps):
                outputs.lookup(batch)
        stream = _batches(trainer.loader, views)

        def step() -> object:
            return trainer.step(next(stream))

        return Lane(step, burst=self.burst), trainer

    def teacher_part(self, trainer: Trainer) -> Lane:
        """The forward pass of the part of the teacher that a method reads in each step; nothing where it reads none."""
        outputs, batch = trainer.teacher_outputs, next(trainer.loader.epoch(1))
        needs, times, teacher = outputs.requires.teacher, outputs.live_passes, trainer.live_teacher

        def step() -> object:
            return [outputs.live(batch.images[0], needs, teacher) for _ in range(times)]

        if not self.machine.graphs or not times:
            return Lane(step, burst=self.burst)
        step()
        recorded, _ = capture.cuda_graph(step, batch.generator)  # as in a step
        return Lane(lambda: (recorded(), batch), burst=self.burst)  # the batch, so that the recording finds it in place

    def warm(self, lane: Lane) -> float | None:
        """Take a loop's first steps. Returns the peak in MB of this process's memory on the GPU after the very first,
        in which kernels are tried that want more; None on a CPU."""
        gpu = self.machine.device == "cuda"
        lane.warm(self.wait)
        if gpu:
            torch.cuda.reset_peak_memory_stats()
        lane.run(1, self.wait)
        return torch.cuda.max_memory_allocated() / 1e6 if gpu else None

    def plain(self, name: str) -> Lane:
        """The field's usual loop for a method."""
        teacher = self.network(self.teacher, plain=True).eval().requires_grad_(False)
        return Lane(
            PlainTrainer(
                self.network(self.student, plain=True), self.method(name), teacher, self.dataset.train,
                self.dataset.config, self.batch, self.schedule, self.machine.device,
            ).step
        )  # fmt: skip


def measure(config: Config, overrides: list[str], teacher: str, student: str) -> Iterator[dict[str, Any]]:
    """Time everything for one pair; the content of `reports/speed/<pair>.json` after each method."""
    bench = Bench(config, overrides, teacher, student)
    bench.machine.prepare()
    impossible = {n: why for n in config.methods if (why := bench.impossible(n))}
    names = [n for n in config.methods if n not in impossible]
    if not names:
        raise UserError(f"nothing to time: {next(iter(impossible.values()))}")
    rows = []
    own = _own_training(bench)
    # on the disk that runs are kept on
    Path(config.runs).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=config.runs) as folder:
        rate = _matmul_rate(bench)
        pipeline = _pipeline_rate(bench)
        # on a GPU `warm` tells it
        peaks = _peaks(config, overrides, teacher, student, names) if bench.machine.device == "cpu" else {}
        for name in names:
            gc.collect()  # a trainer is part of a cycle, and this method's peak would be with the memory of the last
            rows.append(_timed(bench, name, Path(folder), rate, peaks))
            yield {
                "pair": f"{teacher}-{student}",
                "batch_size": bench.batch,
                "image_size": config.dataset.size,
                "precision": bench.precision,
                "burst": bench.burst,
                "rows": rows,
                "impossible": impossible,
                "pipeline_images_per_s": pipeline,
                "matmul_gflops": rate / 1e9,
                "teacher_training_step_ms": own,
                "seeds": len(config.seeds),
                "whole_pair": _whole_pair(bench, own, rows),
                "hardware": bench.machine.describe(),
                "versions": versions(),
            }


def _timed(bench: Bench, name: str, folder: Path, rate: float, peaks: dict[str, float | None]) -> dict[str, Any]:
    """Time all loops of one method; its row."""
    with Apart(bench.config, bench.overrides, bench.teacher, bench.student, name) as plain:  # it begins beside ours
        cached, trainer = bench.ours(name, folder)
        peak = bench.warm(cached) or peaks[name]
        lanes = {
            "alone": bench.ours(STUDENT_ALONE, None)[0],
            "live": bench.ours(name, None)[0],
            "plain": plain,
            "teacher": bench.teacher_part(trainer),
        }
        for lane in lanes.values():
            bench.warm(lane)
        lanes["cached"] = cached
        _take_turns(bench, list(lanes.values()))
    return _row(bench, name, lanes, trainer, rate, peak)


def _take_turns(bench: Bench, lanes: list[Lane]) -> None:
    """Time all lanes, forth and back: what a lane leaves in the caches is there for the one after it, so that the first
    and the last, which are compared with each other, have the same before them."""
    for turn in range(ROUNDS):
        for lane in lanes[:: -1 if turn % 2 else 1]:
            lane.seconds += lane.run(STEPS, bench.wait)


def _own_training(bench: Bench) -> dict[str, float]:
    """Milliseconds of a step of the teacher's own training, in our loop and in the usual one."""
    own = Bench(bench.config, bench.overrides, bench.teacher, bench.teacher)
    with Apart(bench.config, bench.overrides, bench.teacher, bench.teacher, STUDENT_ALONE) as plain:
        lanes = {"ours": own.ours(STUDENT_ALONE, None)[0], "plain": plain}
        for lane in lanes.values():
            own.warm(lane)
        _take_turns(own, list(lanes.values()))
    return {name: lane.ms for name, lane in lanes.items()}


def _row(
    bench: Bench, name: str, lanes: dict[str, Lane], trainer: Trainer, rate: float, peak: float | None
) -> dict[str, Any]:  # fmt: skip
    """One method's row. The share of the matmul rate counts the networks' multiplications, not the method's own."""
    cached, live, plain, part, alone = (lanes[loop] for loop in (*LOOPS, "teacher", "alone"))
    size = bench.dataset.config.size
    work = 3 * networks.multiplications(bench.student, CLASSES, size)
    work *= trainer.method.requires.views
    read = trainer.teacher_outputs.requires.teacher
    work += trainer.teacher_outputs.live_passes * networks.multiplications(bench.teacher, CLASSES, size, read)
    described = configs.method(name, f"{bench.teacher}-{bench.student}", bench.overrides).about
    return {
        "method": name,
        "family": described["family"],
        "step_ms": cached.ms,
        "step_ms_iqr": cached.spread,
        "step_drift": cached.drift / alone.drift,
        "images_per_s": 1000 * bench.batch / cached.ms,
        "student_ms": alone.ms,  # of the student alone, in the same rounds
        "ratio_to_student": cached.ms / alone.ms,
        "teacher_part_ms": part.ms,
        "ratio_to_student_and_teacher_part": cached.ms / (alone.ms + part.ms),
        "live_step_ms": live.ms,
        "plain_step_ms": plain.ms,
        "speedup_over_plain": plain.ms / cached.ms,
        "share_of_matmul_rate": 2 * work * bench.batch / (cached.ms / 1000) / rate,
        "peak_mb": peak,
        "pre_epochs": trainer.method.requires.init_epochs,
        "extra_parameters": count_parameters(trainer.method)[0],
        "extra_buffers": count_parameters(trainer.method)[1],
        **_cost_of_caches(bench, trainer),
    }


def _matmul_rate(bench: Bench) -> float:
    """Floating-point operations a second of the device's own matrix product, in the precision of convolutions in the
    runs, which on a GPU is TF32 where that of products is not."""
    n = 8192 if bench.machine.device == "cuda" else 2048
    dtype = torch.bfloat16 if bench.precision == "bf16" else torch.float32
    a = torch.randn(n, n, device=bench.machine.device).to(dtype)
    usual, matmul.allow_tf32 = matmul.allow_tf32, cudnn.allow_tf32
    seconds = Lane(lambda: a @ a).run(6, bench.wait)
    matmul.allow_tf32 = usual
    return 2 * n**3 / min(seconds)


def _cost_of_caches(bench: Bench, trainer: Trainer) -> dict[str, Any]:
    """Kinds of rows, size and time to fill of the cache, and of that of one seed's second views; nought without one."""
    found: dict[str, Any] = {}
    outputs = trainer.teacher_outputs
    for name, used in itertools.zip_longest(("cache", "second_cache"), outputs.caches):
        kinds = list(used.rows) if used else []
        rows = used.header.samples * used.header.columns if used else 0
        found |= {
            f"{name}_kinds": kinds,
            f"{name}_gb": used.header.gigabytes(kinds) if used else 0.0,
            f"{name}_fill_s": rows * outputs.seconds_per_row(used.needs, outputs.fill_batch) if used else 0.0,
        }
    return found


def _pipeline_rate(bench: Bench) -> float:
    """Images a second of the input pipeline alone: the median over bursts of batches."""
    loader = Loader(bench.dataset.train, bench.dataset.config, bench.batch, 0, bench.machine.device)
    stream = _batches(loader)
    next(stream)
    seconds = Lane(lambda: next(stream), burst=bench.burst).run(300, bench.wait)
    return bench.batch / statistics.median(seconds)


def _peaks(
    config: Config, overrides: list[str], teacher: str, student: str, names: list[str]
) -> dict[str, float | None]:  # fmt: skip
    """Peak memory of a few cached steps of each method in MB, each in a fresh process."""
    with Processes(1) as pool:
        return {n: pool.submit(peak, config, overrides, teacher, student, n).result() for n in names}


def peak(config: Config, overrides: list[str], teacher: str, student: str, name: str) -> float | None:
    """Peak memory in MB of a method's steps, in the process that calls it; None where the system does not tell."""
    bench = Bench(config, overrides, teacher, student)
    bench.machine.prepare()
    with tempfile.TemporaryDirectory(dir=config.runs) as folder:
        bench.warm(bench.ours(name, Path(folder))[0])
    # not getrusage: its peak is handed down by the process that this one was forked from
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    told = dict(line.split(":", 1) for line in status.read_text().splitlines())
    whole, files = (int(told[k].split()[0]) for k in ("VmHWM", "RssFile"))  # kB
    return (whole - files) * 1024 / 1e6  # of files, such as libraries and the cache, the system keeps what it likes


def _whole_pair(bench: Bench, own: dict[str, float], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Hours of the steps of the teacher and of all methods so far over all seeds, for 240 epochs, with the cache, live,
    and plain. A step of a first stage counts as one of the others."""
    steps, seeds = EPOCHS * len(bench.loader), len(bench.config.seeds)
    told, there, filled = [], set(), 0.0
    hours = {loop: steps * own["plain" if loop == "plain" else "ours"] / 3.6e6 for loop in LOOPS}
    for n, row in enumerate(rows, start=1):
        # once for all methods that read the same; the second views of each seed are others
        for name, times in (("cache", 1), ("second_cache", seeds)):
            new = {(name, kind) for kind in row[f"{name}_kinds"]} - there
            there |= new
            filled += times * row[f"{name}_fill_s"] if new else 0.0
        for loop, key in zip(LOOPS, ("step_ms", "live_step_ms", "plain_step_ms"), strict=True):
            hours[loop] += seeds * steps * (1 + row["pre_epochs"] / EPOCHS) * row[key] / 3.6e6
        told.append({"methods": n, "up_to": row["method"], **hours, "cached": hours["cached"] + filled / 3600})
    return told


def markdown(found: dict[str, Any]) -> str:
    """The measurement as a table to read."""
    hardware, made = found["hardware"], found["versions"]
    gpu = hardware["device"] == "cuda"
    times = "steps" if found["burst"] == 1 else f"times {found['burst']} steps of ours and one of the plain loop"
    how = [hardware["device"], f"{hardware['threads']} threads"]
    how += ["compiled"] * hardware["compiled"] + ["steps as CUDA graphs"] * hardware.get("cuda_graph", False)
    lines = [
        f"## Speed of {found['pair']}",
        "",
        f"Batch {found['batch_size']}, {found['image_size']} px, {found['precision']}, random images in CIFAR-100's "
        "number; the plain loop: fp32, its images loaded in the same process, without workers. "
        f"{hardware['name']} ({', '.join(how)}), torch {made['torch']}. Median of {ROUNDS * STEPS} {times} "
        f"in {ROUNDS} interleaved rounds; IQR: interquartile range; drift: last quarter of the steps over the first, "
        "beside the student alone's; "
        "teacher's part: the forward pass, as deep as the method reads, of what is not cached; × student, and "
        "part: over the student alone in the same rounds; share of the matmul rate: of the networks' multiplications; "
        f"peak MB: of {'the memory of the GPU' if gpu else 'a process with its data, without libraries and files'}; "
        f"cache: filled before; where there is a second: of one seed's {EPOCHS} epochs of strongly augmented views.",
        "",
        "| method | ms/step | IQR | drift | images/s | × student | teacher's part, ms | × student and part "
        "| live teacher, ms | plain loop, ms "
        "| × faster than plain | share of matmul rate | peak MB | extra parameters | cache GB | fill, s |",
        "|---|" + "---:|" * 15,
    ]
    for r in found["rows"]:
        lines.append(
            f"| {r['method']} | {_ms(r['step_ms'])} | {_ms(r['step_ms_iqr'])} | {r['step_drift']:.2f} | "
            f"{r['images_per_s']:,.0f} | {r['ratio_to_student']:.2f} | {_ms(r['teacher_part_ms'])} | "
            f"{r['ratio_to_student_and_teacher_part']:.2f} | {_ms(r['live_step_ms'])} | "
            f"{_ms(r['plain_step_ms'])} | {r['speedup_over_plain']:.2f} | "
            f"{100 * r['share_of_matmul_rate']:.0f} % | {_number(r['peak_mb'])} | "
            f"{r['extra_parameters']:,} | {_both(r, 'gb', '.2f')} | {_both(r, 'fill_s', ',.0f')} |"
        )
    lines += [f"\n{name}: n/a: {why}" for name, why in found["impossible"].items()]
    lines += [
        "",
        f"Student alone beside the first method and the last: {_ms(found['rows'][0]['student_ms'])} and "
        f"{_ms(found['rows'][-1]['student_ms'])} ms. "
        f"Input pipeline alone: {found['pipeline_images_per_s']:,.0f} images/s. "
        f"Matrix product: {found['matmul_gflops']:,.0f} GFLOP/s.",
        "",
        f"Hours of all steps of {EPOCHS} epochs: of the teacher ({_ms(found['teacher_training_step_ms']['ours'])} ms a "
        f"step, {_ms(found['teacher_training_step_ms']['plain'])} in the plain loop) and of the methods up to this row "
        f"with {found['seeds']} seeds each; the cache's filling and first stages included:",
        "",
        "| methods | with the cache | live teacher | plain loop |",
        "|---|---:|---:|---:|",
    ]
    lines += [
        f"| {w['methods']}, up to {w['up_to']} | {w['cached']:.1f} | {w['live']:.1f} | {w['plain']:.1f} |"
        for w in found["whole_pair"]
    ]
    return "\n".join(lines) + "\n"


def _both(row: dict[str, Any], what: str, form: str) -> str:
    """The size or time of the cache, and of that of the second views where there is one."""
    first, second = row[f"cache_{what}"], row[f"second_cache_{what}"]
    return f"{first:{form}}" + (f" + {second:{form}}" if second else "")


def _ms(value: float) -> str:
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _number(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def run(config: Config, overrides: list[str]) -> list[Path]:
    """Measure each pair, print its table, write `reports/speed/<pair>.json` and `.md`; the files. They hold the methods
    that are done where it is stopped before its end.

    Raises UserError for a data set whose mean and spread are those of images, which are not read here.
    """
    if config.dataset.mean is None or config.dataset.std is None:
        raise UserError(f"speed reads no images, so that {config.dataset.name} needs dataset.mean= and dataset.std=")
    written = []
    for pair in config.pair:
        teacher, student = networks.split_pair(pair)
        path = Path(config.reports) / "speed" / f"{teacher}-{student}.json"
        text = ""
        for found in measure(config, overrides, teacher, student):
            text = markdown(found)
            store.write_json(path, found)
            store.write_text(path.with_suffix(".md"), text)
        print(text, flush=True)
        written += [path, path.with_suffix(".md")]
    return written
