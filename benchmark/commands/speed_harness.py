"""The loops that `speed` times for one pair: this suite's, with a cached or a live teacher, and the reference loop."""

import itertools
import multiprocessing
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from benchmark import networks
from benchmark.commands.reference_loop import ReferenceLoop
from benchmark.commands.timed_loop import TimedLoop, Wait
from benchmark.config.compose import FULL_EPOCHS, MethodComposer
from benchmark.config.schema import CROP, Config, DatasetConfig, MethodConfig
from benchmark.data.batches import BatchLoader
from benchmark.data.datasets import Dataset, Split
from benchmark.data.loader import Loader
from benchmark.errors import UserError
from benchmark.grid.build import build_method, method_requirements, to_device
from benchmark.grid.identity import network_recipe
from benchmark.teacher.cache import cacheable_kinds
from benchmark.teacher.outputs import TeacherOutputs
from benchmark.training import capture, graphs
from benchmark.training.hardware import Hardware
from benchmark.training.seeding import seeded
from benchmark.training.trainer import Schedule, Trainer
from methods.contract import Batch, Method, UnsupportedPair

IMAGES, CLASSES = 50_000, 100
MOST_PIXELS = 64  # a side, of which there are so many images
# steps of this suite's loop in a sample: a GPU receives steps while it works, so that a single one would look slower
STEPS_PER_SAMPLE = {"cpu": 1, "cuda": 20}
FEATURE_IMAGES = 2 * CLASSES  # from which methods compute class statistics: no speed depends on their number
STUDENT_ALONE = "ce"  # the method that all others are compared with


@dataclass(frozen=True)
class Measurement:
    """What is measured: one pair under one command line, in `rounds` rounds of `samples` samples of each loop.

    precisions: of the teacher's training and of the student's, fp32 or bf16. other_precision: one that is timed, too.
    """

    config: Config
    words: Sequence[str]
    teacher: str
    student: str
    rounds: int
    samples: int
    precisions: tuple[str, str]
    other_precision: str | None = None

    @property
    def pair(self) -> str:
        """The pair, `<teacher>-<student>`."""
        return f"{self.teacher}-{self.student}"

    @property
    def teacher_training(self) -> "Measurement":
        """The same for the training of the teacher itself."""
        precisions = self.precisions[0], self.precisions[0]
        return replace(self, student=self.teacher, precisions=precisions, other_precision=None)

    def at_batch_size(self, size: int) -> "Measurement":
        """Return the same measurement with batches of `size` images."""
        return replace(self, config=replace(self.config, recipe=replace(self.config.recipe, batch_size=size)))


def random_dataset(config: DatasetConfig) -> Dataset:
    """Return random images, as many as CIFAR-100 has for training, and of more than 64 pixels a side as many as take
    the memory of those: no speed depends on what images show."""
    generator = torch.Generator().manual_seed(0)
    n = min(IMAGES, IMAGES * MOST_PIXELS**2 // config.size**2)
    images = torch.randint(256, (n, 3, config.size, config.size), dtype=torch.uint8, generator=generator)
    split = Split(images.contiguous(memory_format=torch.channels_last), torch.arange(n) % CLASSES)
    return Dataset("random", split, split, None, tuple(map(str, range(CLASSES))), "0" * 64, config)


def batches(loader: BatchLoader, views: int = 1) -> Iterator[Batch]:
    """Yield the batches of one epoch after another."""
    return itertools.chain.from_iterable(loader.epoch(epoch, views) for epoch in itertools.count(1))


class SpeedHarness:
    """Builds the loops of one measurement."""

    def __init__(self, measurement: Measurement) -> None:
        config = measurement.config
        self.measurement, self.config = measurement, config
        self.teacher, self.student = measurement.teacher, measurement.student
        self.hardware = Hardware.resolve(config.device, config.threads, 1, config.compile, config.cuda_graph)
        self.precision = measurement.precisions[1]
        self.dataset = random_dataset(config.dataset)
        recipe = network_recipe(config, self.student)
        self.batch_size = recipe["batch_size"]
        # one for all loops: it keeps no state between epochs, and the images are large
        self.loader = Loader(
            self.dataset.images_in_memory, self.dataset.config, self.batch_size, 0, self.hardware.device
        )
        self.schedule = Schedule.from_recipe(recipe)
        # all steps of a loop are within one epoch, because an epoch starts with a capture
        samples = 1 + measurement.rounds * measurement.samples
        steps = (len(self.loader) - 1 - capture.WARMUP_STEPS) // samples
        self.steps_per_sample = min(STEPS_PER_SAMPLE[self.hardware.device], max(1, steps))
        self.steps = capture.WARMUP_STEPS + samples * self.steps_per_sample
        self._methods = MethodComposer(measurement.words)

    def wait(self) -> None:
        """Return when the device has finished its work."""
        if self.hardware.device == "cuda":
            torch.cuda.synchronize()

    def network(self, name: str, *, reference: bool) -> networks.Network:
        """Return a network on the device, in the layout of the reference loop (NCHW) or of this suite's."""
        with seeded(name, 0):
            network = networks.build(name, CLASSES, self.dataset.config.size)
        return network.to(self.hardware.device) if reference else to_device(network, self.hardware.device)

    def method_config(self, name: str) -> MethodConfig:
        """Return a method's options for the pair."""
        return self._methods.method(name, self.measurement.pair)

    def method(self, name: str) -> Method:
        """Return a method as a training run builds it."""
        return build_method(
            self.method_config(name).resolved(), self.student, self.teacher, self.dataset, FULL_EPOCHS, 0,
            self.hardware.device, self.network(self.teacher, reference=False),
        )  # fmt: skip

    def unsupported_reason(self, name: str) -> str | None:
        """Return why a method does not support the pair; None where it does."""
        try:
            method_requirements(self.method_config(name).resolved(), self.student, self.teacher, self.dataset)
        except UnsupportedPair as e:
            return str(e)
        return None

    def trainer(self, name: str, precision: str | None = None) -> Trainer:
        """Return this suite's trainer for a method, with a live teacher; None: in the measurement's precision."""
        teacher = self.network(self.teacher, reference=False).eval().requires_grad_(False)
        method = self.method(name)
        teacher_outputs = TeacherOutputs(
            teacher, method.requires, self.loader, device=self.hardware.device, precision=precision or self.precision,
            source="speed",  # so that its pass is captured as in training, beside the student's
        )  # fmt: skip
        trainer = Trainer(
            self.network(self.student, reference=False), method, teacher_outputs, self.schedule,
            compiled=self.hardware.compiled, capture=graphs.SINGLE_GRAPH if self.hardware.graphs else None,
        )  # fmt: skip
        trainer.prepare_method(FEATURE_IMAGES)
        return trainer

    def training_loop(
        self, name: str, cache_root: Path | None, precision: str | None = None
    ) -> tuple[TimedLoop, Trainer]:
        """Return this suite's loop; with a cache below `cache_root`, filled for the batches to come, or without one.

        precision: None: that of the measurement.
        """
        trainer = self.trainer(name, precision)
        trainer.network.train()
        outputs, views = trainer.teacher_outputs, trainer.method.requires.views
        finite = self.config.dataset.augmentation == CROP and self.loader.outcomes is not None
        if cache_root is not None and finite and cacheable_kinds(outputs.requires.teacher) is not None:
            limit_gb = self.config.teacher.cache_gb
            lines = outputs.open_caches(cache_root, trainer.method.context, self.teacher, "random", limit_gb)
            for cache, line in zip(outputs.caches, lines, strict=True):
                if cache is None:
                    print(line, file=sys.stderr)
            # prefetching reads whole groups of batches
            for batch in itertools.islice(batches(trainer.loader, views), self.steps + outputs.batches_at_once):
                outputs.lookup(batch)
        stream = outputs.prefetch(batches(trainer.loader, views), trainer.watch)
        return TimedLoop(lambda: trainer.step(*next(stream)), steps_per_sample=self.steps_per_sample), trainer

    def teacher_loop(self, trainer: Trainer) -> TimedLoop:
        """Return the teacher's forward passes of a step, as deep as the method reads; none where it reads nothing."""
        outputs, batch = trainer.teacher_outputs, next(trainer.loader.epoch(1))
        needs, passes, teacher = outputs.requires.teacher, outputs.live_passes, trainer.live_teacher

        def step() -> object:
            return [outputs.live(batch.images[0], needs, teacher) for _ in range(passes)]

        if not self.hardware.graphs or not passes:
            return TimedLoop(step, steps_per_sample=self.steps_per_sample)
        step()
        replay = graphs.SINGLE_GRAPH(lambda _: step(), batch.generator, {})
        # the loop holds the batch, whose memory the captured step reads
        return TimedLoop(lambda: (replay(), batch), steps_per_sample=self.steps_per_sample)

    def reference_loop(self, name: str) -> TimedLoop:
        """Return the reference loop for a method, which is prepared as in training."""
        method = self.trainer(name).method
        teacher = self.network(self.teacher, reference=True).eval().requires_grad_(False)
        loop = ReferenceLoop(
            self.network(self.student, reference=True), method, teacher, self.dataset.images_in_memory,
            self.dataset.config, self.batch_size, self.schedule, self.hardware.device,
        )  # fmt: skip
        return TimedLoop(loop.step)

    def warm_up(self, loop: TimedLoop) -> float | None:
        """Take a loop's first steps. Return the peak of this process's GPU memory in MB, without the very first steps,
        in which kernels are tried that need more memory; None on a CPU."""
        gpu = self.hardware.device == "cuda"
        loop.warm_up(self.wait)
        if gpu:
            torch.cuda.reset_peak_memory_stats()
        loop.run(1, self.wait)
        return torch.cuda.max_memory_allocated() / 1e6 if gpu else None


class SubprocessLoop(TimedLoop):
    """The reference loop in a process of its own, which ends with the context.

    There it runs as its users run it: this suite's allocator setting (`hardware.keep_freed_memory`) and memory that
    other loops have freed would save it a fifth of its time on a CPU.
    """

    def __init__(self, measurement: Measurement, method: str) -> None:
        super().__init__(lambda: None)
        self._method = method
        # spawned, not forked: neither CUDA nor torch's thread pools survive a fork
        context = multiprocessing.get_context("spawn")
        self._pipe, child_pipe = context.Pipe()
        self._process = context.Process(target=_serve_steps, args=(child_pipe, measurement, method), daemon=True)
        self._process.start()
        child_pipe.close()

    def run(self, samples: int, wait: Wait) -> list[float]:
        """Have the process take samples while this one waits. Raises UserError where the process died."""
        try:
            self._pipe.send(samples)
            return self._pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            raise UserError(
                f"the reference loop of {self._method} ended with status {self._process.exitcode} (-9: out of memory); "
                "leave the method out of methods=, or use a smaller recipe.batch_size="
            ) from None

    def warm_up(self, wait: Wait) -> None:
        """Take the first steps."""
        self.run(capture.WARMUP_STEPS, wait)

    def __enter__(self) -> "SubprocessLoop":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.join()
        self._pipe.close()


def _serve_steps(pipe: Connection, measurement: Measurement, method: str) -> None:
    """Take the requested samples until this process is terminated."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes: the parent ends this one
    harness = SpeedHarness(measurement)
    torch.set_num_threads(harness.hardware.threads)
    torch.backends.cudnn.benchmark = True  # as reference implementations do
    loop = harness.reference_loop(method)
    while True:
        pipe.send(loop.run(pipe.recv(), harness.wait))
