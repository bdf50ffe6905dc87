"""The measurement behind `precision=auto`: how samples are compared, and that it leaves a number. Nothing is timed."""

import pytest

from benchmark.commands import bf16_speedup as measurement
from benchmark.commands.bf16_speedup import bf16_speedup, compare
from benchmark.config.compose import load_config
from benchmark.training.hardware import Hardware

CPU = Hardware("cpu", 1, False, False)


class FakeSamples:
    """Samples of both precisions with given seconds; the order in which they are taken is recorded."""

    def __init__(self, **seconds: list[float]) -> None:
        self.order: list[str] = []
        self.samples = {name: lambda name=name: self._take(name, seconds[name]) for name in seconds}

    def _take(self, name: str, seconds: list[float]) -> float:
        self.order.append(name)
        return seconds[min(self.order.count(name), len(seconds)) - 1]


def test_the_two_precisions_take_turns_in_alternating_order():
    fake = FakeSamples(fp32=[2.0], bf16=[1.0])
    assert compare(fake.samples) == 2.0
    assert fake.order == ["fp32", "bf16", "bf16", "fp32", "fp32", "bf16"]  # the fewest rounds of slow steps


def test_a_machine_that_slows_down_or_is_disturbed_changes_nothing():
    """Every second round takes twice as long, and one sample of bf16 is interrupted."""
    fake = FakeSamples(fp32=[0.2, 0.4, 0.2, 0.4], bf16=[0.9, 0.2, 0.1, 0.2])
    assert compare(fake.samples) == pytest.approx(2.0)


def test_fast_steps_are_repeated_until_the_budget_is_spent_but_not_for_ever():
    fake = FakeSamples(fp32=[0.06], bf16=[0.04])
    compare(fake.samples)
    assert len(fake.order) == 2 * 10  # rounds of 0.1 s, in one second
    fake = FakeSamples(fp32=[1e-6], bf16=[1e-6])
    compare(fake.samples)
    assert len(fake.order) == 2 * measurement.MAX_ROUNDS


def small(*words: str):
    return load_config(["dataset.size=16", "recipe.batch_size=16", "precision=auto", *words])


def test_a_processor_that_emulates_bf16_is_given_few_images(monkeypatch):
    batches = []

    def sampler(config, hardware, network, batch_size, precision):
        batches.append((batch_size, precision))
        return FakeSamples(s=[10.0 if precision == "bf16" else 1.0]).samples["s"]

    monkeypatch.setattr(measurement, "_sampler", sampler)
    assert bf16_speedup(small(), CPU, "resnet8") == pytest.approx(0.1)
    assert batches == [(8, "fp32"), (8, "bf16")]


def test_whole_batches_decide_where_few_images_do_not(monkeypatch):
    def sampler(config, hardware, network, batch_size, precision):
        seconds = 1.0 if precision == "fp32" else {8: 2.0, 16: 0.5}[batch_size]
        return FakeSamples(s=[seconds]).samples["s"]

    monkeypatch.setattr(measurement, "_sampler", sampler)
    assert bf16_speedup(small(), CPU, "resnet8") == 2.0


def test_steps_of_a_network_are_really_taken():
    assert 0 < bf16_speedup(small(), CPU, "resnet8") < 1000


def test_several_jobs_leave_the_measurement_to_another_process(monkeypatch):
    monkeypatch.setattr(measurement, "_sampler", lambda *_: pytest.fail("measured in this process"))
    assert 0 < bf16_speedup(small("jobs=2"), CPU, "resnet8") < 1000


def test_a_captured_step_is_what_is_timed_where_training_captures(monkeypatch):
    captured, replays = [], []

    class Recorded:
        stream = None

        def __call__(self, step, generator, reads):
            captured.append(True)
            result = step(None)
            return lambda: (replays.append(True), result)[1]

    monkeypatch.setattr("benchmark.training.graphs.SINGLE_GRAPH", Recorded())
    sample = measurement._sampler(small(), Hardware("cpu", 1, False, True), "resnet8", 8, "fp32")
    assert len(captured) == 1 and len(replays) >= 1
    before = len(replays)
    sample()
    assert len(replays) == before + 1
