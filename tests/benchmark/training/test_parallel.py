"""Two processes train as one: the same loss terms and weights, for every method; what they exchange, and how."""

import dataclasses
import os
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn

from benchmark.data.datasets import load
from benchmark.data.image_files import FileSplit
from benchmark.data.streaming import make_loader
from benchmark.training.evaluation import Evaluator
from benchmark.training.parallel import ALONE, Parallel, PeerLost, ProcessGroup
from benchmark.training.trainer import Schedule, Trainer
from methods.contract import Outputs
from tests.benchmark.data.examples import dataset_config
from tests.benchmark.data.layouts import write_imagenet
from tests.benchmark.training.processes import group_of
from tests.benchmark.training.trainers import (
    METHODS,
    build_trainer,
    no_progress,
    stages,
    tiny_dataset,
)

IMAGES, BATCH = 19, 8  # batches of 8, 8 and 3; of the last one, two processes have 2 and 1
# a small learning rate: at 0.05 some methods amplify rounding a thousandfold within these steps
SCHEDULE = Schedule(0.01, 0.9, False, 5e-4, [], 0.1)
TERMS = {"rel": 2e-3, "abs": 1e-5}  # of loss terms
WEIGHTS = {"rtol": 1e-4, "atol": 5e-4}  # of weights and statistics after the steps; typical steps are ten times as long
Training = tuple[list[dict[str, float]], dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def two():
    with group_of(2) as call:
        yield call


@pytest.fixture(scope="module")
def three():
    with group_of(3) as call:
        yield call


def tiny_trainer(parallel: Parallel, folder: Path, name: str, precision: str = "fp32") -> Trainer:
    dataset = tiny_dataset(folder, train=IMAGES)
    return build_trainer(dataset, name, batch_size=BATCH, schedule=SCHEDULE, parallel=parallel, precision=precision)


def train(parallel: Parallel, folder: Path, name: str, precision: str = "fp32") -> Training:
    """Train an epoch of each stage; return the loss terms of every step, and weights and statistics afterwards."""
    trainer, terms = tiny_trainer(parallel, folder, name, precision), []
    take_step = trainer.step

    def step(*args: Any) -> Any:
        result = take_step(*args)
        terms.append({name: value.item() for name, value in result.terms.items()})
        return result

    trainer.step = step
    for epoch in stages(trainer):
        trainer.epoch(epoch, no_progress)
    return terms, state_of(trainer)


def state_of(trainer: Trainer) -> dict[str, np.ndarray]:
    modules = {"network": trainer.network, "method": trainer.method}
    return {f"{k}.{name}": v.numpy() for k, m in modules.items() for name, v in m.state_dict().items()}


def assert_alike(state: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(state[name], value, **WEIGHTS, err_msg=name)


def assert_equal(state: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert all(np.array_equal(state[name], value) for name, value in expected.items())


# ---------------------------------------------------------------- training


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_train_as_one(two, tmp_path, name):
    (terms, state), (_, state_of_second) = two(train, tmp_path, name)
    expected_terms, expected = train(ALONE, tmp_path, name)
    assert terms == [pytest.approx(step, **TERMS) for step in expected_terms]
    assert_alike(state, expected)
    assert_equal(state_of_second, state)


def test_three_processes_train_as_one_in_mixed_precision(three, tmp_path):
    """The last batch has an image for each. A rounding of bf16 is 2⁻⁸."""
    (terms, _), *_ = three(train, tmp_path, "fitnet", "bf16")
    expected, _ = train(ALONE, tmp_path, "fitnet", "bf16")
    assert terms == [pytest.approx(step, rel=0.02, abs=1e-3) for step in expected]


def epochs_from_a_cache(parallel: Parallel, folder: Path) -> tuple[list[dict[str, float]], int, float]:
    """Train two epochs of CLKD with a cache of the teacher's outputs that is filled ahead.

    Return the epochs, the rows that this process computed, and the filled share before the first epoch.
    """
    trainer = tiny_trainer(parallel, folder, "clkd")
    outputs = trainer.teacher_outputs
    outputs._prefill_decision = lambda cache, visits: (True, "")  # which is timed otherwise
    outputs.connect(
        folder / "cache", trainer.method.context, "teacher", "data", limit_gb=1.0, visits=2,
        announce=lambda line: None, report_progress=lambda share: None,
    )  # fmt: skip
    (cache,) = outputs.caches
    filled = cache.share_filled()
    return [trainer.epoch(epoch, no_progress) for epoch in (1, 2)], cache.computed, filled


def test_processes_fill_and_read_one_cache(two, tmp_path):
    (lines, computed, filled), (_, computed_by_second, filled_of_second) = two(epochs_from_a_cache, tmp_path)
    live = tiny_trainer(ALONE, tmp_path, "clkd")
    assert lines == [pytest.approx(live.epoch(epoch, no_progress), rel=1e-3) for epoch in (1, 2)]
    rows = IMAGES * live.loader.outcomes
    assert filled == filled_of_second == 1.0
    assert computed + computed_by_second == rows and min(computed, computed_by_second) > 0


def features(parallel: Parallel, folder: Path) -> np.ndarray:
    return tiny_trainer(parallel, folder, "kd").teacher_outputs.training_features(7)[0].numpy()


def test_the_teachers_features_of_training_images_are_divided_and_joined(two, tmp_path):
    expected = features(ALONE, tmp_path)
    for gathered in two(features, tmp_path):
        np.testing.assert_allclose(gathered, expected, rtol=1e-5, atol=1e-6)


def evaluate(parallel: Parallel, folder: Path) -> tuple[dict[str, float], np.ndarray]:
    trainer = tiny_trainer(ALONE, folder, "ce")
    dataset = tiny_dataset(folder, train=IMAGES)
    measures, logits = Evaluator(dataset, None, "cpu", "fp32", parallel)(trainer.network, 1)
    return measures, logits.numpy()


def test_an_evaluation_is_divided_and_joined(three, tmp_path):
    measures, logits = evaluate(ALONE, tmp_path)
    for result in three(evaluate, tmp_path):
        assert result[0] == measures
        np.testing.assert_allclose(result[1], logits, rtol=1e-4, atol=1e-5)


def streamed(parallel: Parallel, folder: Path, decoder: str) -> tuple[list[np.ndarray], list[int]]:
    """Return both views of all batches of photographs, and the number of files that this process decodes for each."""
    dataset = load(dataset_config("imagenet", size=16, workers=0, decoder=decoder), folder)
    loader = make_loader(dataset.train, dataset.config, 8, 3, "cpu", parallel=parallel)
    images, decoded = [], []
    with mock.patch.object(FileSplit, "path", autospec=True, side_effect=FileSplit.path) as path:
        for batch in loader.epoch(2, views=2):
            images += [view.numpy() for view in batch.images]
            decoded.append(path.call_count)
            path.reset_mock()
    return images, decoded


@pytest.mark.parametrize("decoder", ["pil", "dali"])
def test_decoding_of_photographs_is_divided_and_joined(three, tmp_path, decoder):
    if decoder == "dali":
        pytest.importorskip("nvidia.dali")
    write_imagenet(tmp_path / "imagenet", train=5)  # batches of 8 and 7
    expected, _ = streamed(ALONE, tmp_path, decoder)
    results = three(streamed, tmp_path, decoder)
    for images, _ in results:
        assert len(images) == len(expected) == 4 and all(map(np.array_equal, images, expected))
    if decoder == "pil":  # DALI reads files ahead
        assert [decoded for _, decoded in results] == [[3, 3], [3, 2], [2, 2]]


# ---------------------------------------------------------------- gradients


def accumulated(parallel: Parallel) -> list[np.ndarray]:
    """Return the gradients of two backward passes that are added up: of a student's layer, and of a method's."""
    torch.manual_seed(0)
    student, method, x = nn.Linear(3, 2), nn.Linear(2, 1), torch.randn(5, 3)
    unused = nn.Linear(2, 2)
    parallel.reduce_gradients(nn.ModuleList([student, unused]), method)
    for exponent in (1, 2):
        outputs = parallel.gather(Outputs(logits=student(x[parallel.rows(5)])), 5)
        (method(outputs.logits) ** exponent).sum().backward()
    assert all(p.grad is None for p in unused.parameters())
    return [p.grad.numpy() for p in (*student.parameters(), *method.parameters())]


def test_gradients_of_several_backward_passes_add_up(two):
    for gradients in two(accumulated):
        for gradient, expected in zip(gradients, accumulated(ALONE), strict=True):
            np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------- batch norm


LAYERS = {
    "maps": (lambda: nn.BatchNorm2d(3), (7, 3, 4, 5)),
    "features": (lambda: nn.BatchNorm1d(3), (7, 3)),
    "without parameters": (lambda: nn.BatchNorm2d(3, affine=False), (7, 3, 2, 2)),
    "without running statistics": (lambda: nn.BatchNorm2d(3, track_running_stats=False), (7, 3, 2, 2)),
    "cumulative average": (lambda: nn.BatchNorm2d(3, momentum=None), (7, 3, 2, 2)),
    "in evaluation mode": (lambda: nn.BatchNorm2d(3).eval(), (7, 3, 2, 2)),
}


def normalize_twice(parallel: Parallel, kind: str) -> list[np.ndarray]:
    """Return the outputs of a layer for two batches, gradients of inputs and parameters, and the statistics.

    The mean is large: a difference of mean squares would lose the variance.
    """
    make, shape = LAYERS[kind]
    generator, layer, results = torch.Generator().manual_seed(0), make(), []
    parallel.reduce_gradients(layer, nn.Identity())
    for _ in range(2):
        x = (300 + torch.randn(shape, generator=generator)).requires_grad_()
        with parallel.student_pass():
            y = layer(x[parallel.rows(len(x))])
        y = parallel.gather_rows(y, len(x))
        (y.sin() * torch.randn(shape, generator=generator)).sum().backward()
        results += [y, x.grad[parallel.rows(len(x))]]
    results += [*(p.grad for p in layer.parameters()), *layer.buffers()]
    return [r.detach().numpy() for r in results]


@pytest.mark.parametrize("kind", LAYERS)
def test_batch_norm_has_the_statistics_and_gradients_of_the_whole_batch(three, kind):
    expected, parts = normalize_twice(ALONE, kind), three(normalize_twice, kind)
    for k, value in enumerate(expected):
        of_rows = k in (1, 3)  # gradients of inputs, of which each process has its rows
        joined = np.concatenate([part[k] for part in parts]) if of_rows else parts[0][k]
        np.testing.assert_allclose(joined, value, rtol=1e-4, atol=2e-4, err_msg=f"result {k}")
        assert of_rows or all(np.array_equal(part[k], joined) for part in parts)


def train_with_local_statistics(group: ProcessGroup, folder: Path) -> Training:
    return train(ProcessGroup(whole_batch_statistics=False), folder, "kd")


def test_local_statistics_change_the_result_and_are_averaged_for_evaluation(two, tmp_path):
    (terms, state), (_, state_of_second) = two(train_with_local_statistics, tmp_path)
    expected_terms, expected = train(ALONE, tmp_path, "kd")
    assert abs(terms[0]["loss"] - expected_terms[0]["loss"]) > 1e-3
    assert_equal(state_of_second, state)
    mean, expected_mean = (s["network.bn1.running_mean"] for s in (state, expected))
    np.testing.assert_allclose(mean, expected_mean, atol=0.02)  # of the stem, which trained little


def averaged_weights(group: ProcessGroup, folder: Path) -> dict[str, np.ndarray]:
    """Train an epoch with averaged weights, and batch norm statistics of each process; return the average."""
    schedule = dataclasses.replace(SCHEDULE, ema_decay=0.9)
    parallel = ProcessGroup(whole_batch_statistics=False)
    trainer = build_trainer(
        tiny_dataset(folder, train=IMAGES), "ce", batch_size=BATCH, schedule=schedule, parallel=parallel
    )
    trainer.epoch(1, no_progress)
    return {name: value.numpy().copy() for name, value in trainer.trained_network.state_dict().items()}


def test_processes_evaluate_one_average_of_the_weights(two, tmp_path):
    first, second = two(averaged_weights, tmp_path)
    assert_equal(second, first)


# ---------------------------------------------------------------- exchange


@pytest.mark.parametrize("count", [3, 7, 9])
def test_shares_cover_all_rows_and_differ_by_one_at_most(count):
    shares = []
    for rank in range(3):
        parallel = Parallel()
        parallel.rank, parallel.size = rank, 3
        shares.append(list(range(count))[parallel.rows(count)])
    assert [row for share in shares for row in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def joined(parallel: Parallel) -> dict[str, Any]:
    """Join maps of several types and memory formats, and what only the first process has."""
    rows, results = parallel.rows(4), {}
    for dtype in (torch.float32, torch.bfloat16, torch.float64, torch.int64):
        x = torch.arange(4 * 2 * 3 * 3).view(4, 2, 3, 3).to(dtype)
        for memory_format in (torch.contiguous_format, torch.channels_last):
            y = parallel.gather_rows(x.contiguous(memory_format=memory_format)[rows], 4)
            same = torch.equal(y, x) and y.dtype == dtype
            results[f"{dtype} {memory_format}"] = same and y.is_contiguous(memory_format=memory_format)
    parallel.wait()
    results["agree"] = parallel.agree(True) and not parallel.agree(parallel.rank < 2)
    return {**results, "first": parallel.from_first(parallel.rank), "dealt": list(parallel.deal(range(5)))}


def test_rows_are_joined_in_order_type_and_memory_format(three):
    results = three(joined)
    for rank, result in enumerate(results):
        assert result.pop("first") == 0 and result.pop("dealt") == list(range(rank, 5, 3))
        assert all(result.values()), result


def lose_a_peer(parallel: Parallel) -> str:
    if parallel.rank == 1:
        os._exit(1)
    with pytest.raises(PeerLost, match="the other processes of the run cannot be reached: ") as error:
        parallel.gather_rows(torch.zeros(1), 2)
    return str(error.value)


def test_an_exchange_with_a_process_that_has_ended_fails():
    with group_of(2) as call:
        reason, nothing = call(lose_a_peer)
        assert len(reason.splitlines()) == 1 and nothing is None
