"""Keys of runs that several processes train: contradictions, and what such runs cannot do."""

import pytest

from benchmark.commands import plan, speed, tune
from benchmark.config.compose import load_config
from benchmark.errors import UserError
from benchmark.grid import resources
from benchmark.training.hardware import Hardware

GPUS = ["executor=ray", "distributed=true", "executor.gpus=4", "executor.cpus=8"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["processes=2"], "processes=2 is of runs that several processes train: distributed=true"),
        (["batch_norm_statistics=local"], "batch_norm_statistics=local is of runs that several processes train"),
        (["distributed=true", "batch_norm_statistics=mine"], "batch_norm_statistics cannot be 'mine'"),
        (["distributed=true", "processes=0"], "processes is 0: it must be at least 1"),
        (["distributed=true", "cuda_graph=true"], "cannot be captured in a step; leave out cuda_graph=true"),
        (["distributed=true", "compile=true"], "leave out compile=true"),
        (["distributed=true", "jobs=2"], "leave out jobs="),
        (["executor=slurm", "distributed=true"], "give executor.gpus=, or the number of processes on CPUs"),
        ([*GPUS, "processes=2"], "processes is 2, executor.gpus 4: each process has a GPU of its own"),
        ([*GPUS, "executor.gpus=1.5"], "executor.gpus is 1.5: with distributed=true each process has a whole GPU"),
        ([*GPUS, "device=cpu"], "device=cpu contradicts executor.gpus=4"),
        (["executor=slurm", "distributed=true", "processes=2", "device=cuda"], "device=cuda contradicts"),
        (["executor=ray", "executor.gpus=2"], "a run uses one GPU, or several with distributed=true"),
        (["executor=slurm", "executor.gpus=2"], "distributed=true"),
    ],
)
def test_contradictions_are_refused(words, message):
    with pytest.raises(UserError) as error:
        load_config(words)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_torchrun_is_refused(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with pytest.raises(UserError, match="give the command without torchrun"):
        load_config(["distributed=true", "processes=2"])
    load_config([])


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        (tune, ["methods=kd"], "tune trains a run in this process"),
        (speed, [], "speed times the steps of one process"),
        (plan, ["probe=true"], "probe=true times the steps of one process"),
    ],
)
def test_commands_that_time_or_watch_one_process_refuse(command, words, message):
    with pytest.raises(UserError, match=message):
        command.run([*words, "distributed=true", "processes=2", "device=cpu"])


@pytest.mark.parametrize(
    ("words", "hardware"),
    [
        (GPUS, Hardware("cuda", 2, False, False, processes=4)),
        ([*GPUS, "executor.gpus=1"], Hardware("cuda", 8, False, True)),
        ([*GPUS, "executor.gpus=0", "processes=3"], Hardware("cpu", 2, False, False, processes=3)),
        (["executor=slurm", "distributed=true", "executor.gpus=2"], Hardware("cuda", 1, False, False, processes=2)),
    ],
)
def test_a_run_on_a_cluster_has_a_process_for_each_gpu(words, hardware):
    assert resources.hardware_of_runs(load_config(words)) == hardware


@pytest.mark.parametrize(
    ("gpus", "words", "processes", "threads", "groups"),
    [
        (["4", "5", "6", "7"], [], 4, 2, ["4,5,6,7"]),
        (["4", "5", "6", "7"], ["processes=2"], 2, 2, ["4,5", "6,7"]),
        (["4", "5", "6"], ["processes=2"], 2, 4, ["4,5"]),
        (["4", "5"], ["processes=1"], 1, 4, ["4", "5"]),
        (["4"], [], 1, 8, ["4"]),
        ([], ["processes=3"], 3, 2, []),
    ],
)
def test_runs_are_spread_over_groups_of_gpus(monkeypatch, gpus, words, processes, threads, groups):
    monkeypatch.setattr("torch.cuda.is_available", lambda: bool(gpus))
    for module in ("benchmark.training.hardware", "benchmark.grid.resources"):
        monkeypatch.setattr(f"{module}.visible_gpus", lambda device: gpus if device == "cuda" else [])
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "a GPU")
    monkeypatch.setattr("torch.get_num_threads", lambda: 8)
    monkeypatch.setattr("benchmark.training.hardware.usable_cores", lambda: 8)
    config = load_config(["distributed=true", *words])
    hardware = resources.hardware_of_runs(config)
    assert (hardware.processes, hardware.threads) == (processes, threads)
    assert hardware.graphs == (bool(gpus) and processes == 1)
    assert resources.gpu_groups(hardware) == groups
    described = resources.describe(config, hardware)[0] if not gpus else ""
    assert not gpus or hardware.describe().get("processes", 1) == processes
    assert gpus or described.endswith("3 processes a run")


def test_the_number_of_processes_must_be_possible(monkeypatch):
    with pytest.raises(UserError, match="say how many processes train a run, as in processes=2"):
        resources.hardware_of_runs(load_config(["distributed=true", "device=cpu"]))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("benchmark.training.hardware.visible_gpus", lambda _: ["0", "1"])
    with pytest.raises(UserError, match="processes is 3: 2 GPUs can be used here"):
        resources.hardware_of_runs(load_config(["distributed=true", "processes=3"]))
