"""Where the runs of a plan compute, in words, and how many at a time."""

import pytest

from benchmark.config.compose import load_config
from benchmark.grid import resources
from benchmark.training.hardware import Hardware


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (["executor=slurm"], [
            "on slurm (cpu, 2 threads), precision auto",
            "executor slurm: 2 cores a run, requeued after 240 minutes",
        ]),
        (["executor=slurm", "executor.partition=long", "executor.gpus=1", "executor.cpus=1", "executor.mem_gb=1.5"], [
            "on slurm (cuda, 1 threads), precision auto",
            "executor slurm long: 1 core and 1 GPU and 1.5 GB a run, requeued after 240 minutes",
        ]),
        (["executor=ray", "executor.address=10.0.0.1:6379", "executor.gpus=0.25", "precision=bf16"], [
            "on ray (cuda, 1 threads), precision bf16",
            "executor ray 10.0.0.1:6379: 1 core and 0.25 GPU a run",
        ]),
    ],
)  # fmt: skip
def test_a_cluster_is_described_by_what_each_run_gets(words, lines):
    config = load_config(["precision=auto", *words])
    assert resources.describe(config, resources.hardware_of_runs(config)) == lines


@pytest.mark.parametrize(
    ("gpus", "jobs", "runs", "end"),
    [
        (0, 1, 1, "precision auto"),
        (0, 3, 3, "precision auto, 3 runs at a time"),
        (1, 3, 3, "precision auto, 3 runs at a time"),
        (2, 1, 2, "precision auto, 2 runs at a time on 2 GPUs"),
        (2, 3, 6, "precision auto, 6 runs at a time on 2 GPUs"),
    ],
)
def test_jobs_are_counted_on_each_gpu(monkeypatch, gpus, jobs, runs, end):
    monkeypatch.setattr(resources, "visible_gpus", lambda _: [str(i) for i in range(gpus)])
    config, hardware = load_config([f"jobs={jobs}", "precision=auto"]), Hardware("cpu", 1, False, False)
    assert resources.runs_at_a_time(config, hardware) == runs
    (line,) = resources.describe(config, hardware)
    assert line.endswith(end)
