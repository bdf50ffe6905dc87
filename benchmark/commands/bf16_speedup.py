"""The measurement behind `precision=auto`: training steps of a network in fp32 and in bf16, which take turns.

A step is this suite's own, without a teacher: forward, cross-entropy, backward, optimizer; on a GPU as a CUDA graph
where training captures its steps. It is not compiled, which would take longer than everything else here.
"""

import dataclasses
import gc
import math
from collections.abc import Callable, Mapping

import torch

from benchmark import networks
from benchmark.commands.timed_loop import TimedLoop
from benchmark.config import own_networks
from benchmark.config.compose import load_method
from benchmark.config.schema import Config
from benchmark.data.datasets import Dataset, Split
from benchmark.data.loader import Loader
from benchmark.grid.build import build_method, to_device
from benchmark.grid.executors import Processes
from benchmark.grid.identity import network_recipe
from benchmark.teacher.outputs import TeacherOutputs
from benchmark.training import capture, graphs
from benchmark.training.hardware import Hardware
from benchmark.training.seeding import seeded
from benchmark.training.trainer import Schedule, Trainer

MIN_ROUNDS, MAX_ROUNDS = 3, 15  # a round is one sample in each precision
BUDGET_S = 1.0  # of timed samples; beyond it no round starts, once there are the fewest
FEW_IMAGES, FEW_ROUNDS = 8, 2  # of a first comparison, so that a processor that emulates bf16 need not run batches
TOO_SLOW = 1 / 3  # speedup in the first comparison that decides by itself
CLASSES = 100
GRAY = [0.5, 0.5, 0.5]  # mean and deviation of the images: no speed depends on them
GPU_STEPS_PER_SAMPLE = 20  # as a GPU receives steps while it works, a single one would look slower

Sample = Callable[[], float]  # takes a sample of steps and returns the seconds of one step


def bf16_speedup(config: Config, hardware: Hardware, network: str) -> float:
    """Return how many times as fast a network's training step is in bf16 as in fp32, at the recipe's batch size.

    Takes a second or two for a small network. Where several runs will share the machine it runs in a process of its
    own, since this one would keep its memory.
    """
    if config.jobs > 1:
        with Processes(1) as pool:
            return pool.submit(_measure, config, hardware, network).result()
    return _measure(config, hardware, network)


def compare(samples: Mapping[str, Sample], rounds: int = MAX_ROUNDS) -> float:
    """Take samples in fp32 and bf16 by turns; return the speedup of bf16 by the fastest sample of each.

    A drift of the machine meets both alike, and what other processes take from it lengthens single samples.
    rounds: the most; `MIN_ROUNDS` of them take place even where they exceed `BUDGET_S`.
    """
    fastest, spent = dict.fromkeys(samples, math.inf), 0.0
    for turn in range(rounds):
        if turn >= MIN_ROUNDS and spent >= BUDGET_S:
            break
        for precision in list(samples)[:: -1 if turn % 2 else 1]:
            seconds = samples[precision]()
            fastest[precision] = min(fastest[precision], seconds)
            spent += seconds
    return fastest["fp32"] / fastest["bf16"]


def _measure(config: Config, hardware: Hardware, network: str) -> float:
    hardware.prepare()
    own_networks.register(config.network)  # in a process of its own
    batch_size = network_recipe(config, network)["batch_size"]
    speedup = _compare_steps(config, hardware, network, min(FEW_IMAGES, batch_size), FEW_ROUNDS)
    if speedup > TOO_SLOW:
        speedup = _compare_steps(config, hardware, network, batch_size, MAX_ROUNDS)
    return speedup


def _compare_steps(config: Config, hardware: Hardware, network: str, batch_size: int, rounds: int) -> float:
    speedup = compare({p: _sampler(config, hardware, network, batch_size, p) for p in ("fp32", "bf16")}, rounds)
    gc.collect()  # a trainer is part of a reference cycle and would hold its memory during the first run
    if hardware.device == "cuda":
        torch.cuda.empty_cache()
    return speedup


def _sampler(config: Config, hardware: Hardware, network: str, batch_size: int, precision: str) -> Sample:
    """Return a function that times steps of a new network on one random batch; its first steps are taken here."""
    size, device = config.dataset.size, hardware.device
    images = torch.randint(256, (batch_size, 3, size, size), dtype=torch.uint8)
    split = Split(images.contiguous(memory_format=torch.channels_last), torch.arange(batch_size) % CLASSES)
    options = dataclasses.replace(config.dataset, mean=GRAY, std=GRAY)
    dataset = Dataset("random", split, split, None, tuple(map(str, range(CLASSES))), "0" * 64, options)
    loader = Loader(split, options, batch_size, 0, device)
    recipe = network_recipe(config, network)
    method = build_method(load_method("ce", "", []).resolved(), network, network, dataset, recipe["epochs"], 0, device)
    outputs = TeacherOutputs(None, method.requires, loader, device=device, precision=precision)
    with seeded(network, 0):
        student = to_device(networks.build(network, CLASSES, size), device)
    schedule, graph = Schedule.from_recipe(recipe), graphs.SINGLE_GRAPH if hardware.graphs else None
    trainer = Trainer(student.train(), method, outputs, schedule, capture=graph)
    batch = next(loader.epoch(1))
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    steps = GPU_STEPS_PER_SAMPLE if device == "cuda" else 1
    loop = TimedLoop(lambda: trainer.step(batch), steps_per_sample=steps)
    for _ in range(capture.WARMUP_STEPS + 1 if hardware.graphs else 1):  # with the captured step
        trainer.step(batch)
    return lambda: min(loop.run(1, wait))
