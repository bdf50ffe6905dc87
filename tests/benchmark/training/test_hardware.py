"""Hardware of a run: its resolution, its setup, and its record."""

import platform
import subprocess
import sys

import pytest
import torch

from benchmark.errors import UserError
from benchmark.training import hardware
from benchmark.training.hardware import Hardware, visible_gpus

COUNT_PAGE_FAULTS = """
import resource, torch
from benchmark.training.hardware import keep_freed_memory

def page_faults(size):
    for _ in range(10):
        torch.ones(size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        torch.ones(size)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

sizes = 2**20, 2**24  # 4 and 64 MB
print(max(map(page_faults, sizes)))
keep_freed_memory()
print(max(map(page_faults, sizes)))
"""
KEPT_BYTES = """
import torch
from benchmark.data import decoders
from benchmark.training.hardware import keep_freed_memory

def resident():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1])

keep_freed_memory()
if {in_worker}:
    decoders._prepare_worker(0)
before = resident()
blocks = [torch.ones(2**20) for _ in range(20)]
keeper = torch.ones(2**4)  # above them on the heap
del blocks
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_kept_memory_causes_no_page_faults():
    process = subprocess.run([sys.executable, "-c", COUNT_PAGE_FAULTS], capture_output=True, text=True, check=True)
    faults_by_default, faults_with_kept_memory = map(int, process.stdout.split())
    assert faults_by_default > 100 and faults_with_kept_memory <= 5


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_a_worker_returns_freed_memory_as_its_parent_does_not():
    """80 MB are 20,480 pages of 4 kB."""
    kept = {}
    for in_worker in (False, True):
        code = KEPT_BYTES.format(in_worker=in_worker)
        process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        kept[in_worker] = int(process.stdout)
    assert kept[False] > 15_000 and kept[True] < 2_000


def test_cores_are_shared_by_the_jobs(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    monkeypatch.setattr(hardware, "usable_cores", lambda: 4)
    assert Hardware.resolve("cpu", 0, 1, False, False).threads == torch.get_num_threads()
    assert Hardware.resolve("cpu", 0, 1000, False, False).threads == 1
    assert Hardware.resolve("cpu", 3, 1000, False, False).threads == 3
    with pytest.raises(UserError, match="threads is 5: this machine has 4 cores"):
        Hardware.resolve("cpu", 5, 1, False, False)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000"}, 8),
        ({"cpu.max": "200000 100000"}, 2),
        ({"cpu.max": "250000 100000"}, 3),
        ({"cpu.max": "5000 100000"}, 1),
        ({"cpu.max": "1600000 100000"}, 8),
        ({"cpu.max": "damaged"}, 8),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4),
    ],
)
def test_usable_cores_are_those_of_the_process_within_the_quota_of_its_container(monkeypatch, tmp_path, files, cores):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    assert hardware.usable_cores(tmp_path) == cores


def test_no_more_threads_than_usable_cores_are_used_unless_they_are_given(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    monkeypatch.setattr("torch.get_num_threads", lambda: 32)
    monkeypatch.setattr(hardware, "usable_cores", lambda: 8)
    assert Hardware.resolve("cpu", 0, 1, False, False).threads == 8
    assert Hardware.resolve("cpu", 0, 3, False, False).threads == 2
    assert Hardware.resolve("cpu", 16, 1, False, False).threads == 16


CPUINFO = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 26
model\t\t: 2
model name\t: AMD EPYC
stepping\t: 1
power management:

processor\t: 1
model\t\t: 3
"""


def test_processors_of_one_name_are_told_apart_by_their_model(monkeypatch, tmp_path):
    path = tmp_path / "cpuinfo"
    path.write_text(CPUINFO)
    fields, missing = hardware._cpu_fields(path), hardware._cpu_fields(tmp_path / "none")
    monkeypatch.setattr(hardware, "_cpu_fields", lambda: fields)
    cpu = Hardware("cpu", 1, False, False)
    assert (cpu.name, cpu.model) == ("AMD EPYC", "AuthenticAMD 26 2 1") and Hardware("cuda", 1, False, True).model == ""
    assert missing == {}


@pytest.mark.parametrize(
    ("setting", "gpus"),
    [(None, ["0", "1", "2"]), ("", ["0", "1", "2"]), ("7, GPU-a,4", ["7", "GPU-a", "4"]), ("1,0,5,6", ["1", "0", "5"])],
)
def test_visible_gpus_keep_the_names_that_the_process_was_started_with(monkeypatch, setting, gpus):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if setting is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", setting)
    assert visible_gpus("cuda") == gpus and visible_gpus("cpu") == []


@pytest.mark.parametrize(
    ("gpus", "graphs", "threads", "side_by_side"), [(3, None, 4, 1), (1, None, 24, 2), (1, False, 12, 1)]
)
def test_jobs_share_a_process_on_one_gpu_with_captured_steps_and_the_cores_otherwise(
    monkeypatch, gpus, graphs, threads, side_by_side
):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("torch.get_num_threads", lambda: 24)
    monkeypatch.setattr(hardware, "usable_cores", lambda: 64)
    resolved = Hardware.resolve("auto", 0, 2, False, graphs)
    assert (resolved.threads, resolved.side_by_side) == (threads, side_by_side)


@pytest.mark.parametrize("gpu", [True, False])
def test_a_gpu_is_used_if_there_is_one_and_captures_steps_by_default(monkeypatch, gpu):
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    resolved = Hardware.resolve("auto", 1, 1, False, None)
    assert (resolved.device, resolved.graphs) == (("cuda", True) if gpu else ("cpu", False))
    assert not Hardware.resolve("cpu", 1, 1, False, None).graphs
    with pytest.raises(UserError, match="cuda_graph=true: training runs on the CPU here"):
        Hardware.resolve("cpu", 1, 1, False, True)
    if gpu:
        assert not Hardware.resolve("cuda", 1, 1, False, False).graphs
    else:
        with pytest.raises(UserError, match="device=cuda: no GPU is usable here"):
            Hardware.resolve("cuda", 1, 1, False, None)


def test_compiling_without_a_compiler_is_an_error(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"compile=true needs a C\+\+ compiler, and no-such-compiler is not installed"):
        Hardware.resolve("cpu", 1, 1, True, False)
    assert not Hardware.resolve("cpu", 1, 1, False, False).compiled


def test_preparing_a_process_sets_its_threads_and_keeps_its_memory(monkeypatch):
    calls = []
    monkeypatch.setattr(hardware, "keep_freed_memory", lambda: calls.append(True))
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)  # restored afterwards
    Hardware("cpu", 2, False, False).prepare()
    assert torch.get_num_threads() == 2 and calls == [True] and not torch.backends.cudnn.benchmark
    Hardware("cuda", 1, False, True).prepare()
    assert torch.get_num_threads() == 1 and torch.backends.cudnn.benchmark


def test_a_result_records_the_hardware(monkeypatch):
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "a GPU")
    assert Hardware("cuda", 2, True, True).describe() == {
        "device": "cuda", "name": "a GPU", "threads": 2, "compiled": True, "cuda_graph": True
    }  # fmt: skip
    cpu = Hardware("cpu", 2, False, False).describe()
    assert cpu.pop("name") and cpu == {"device": "cpu", "threads": 2, "compiled": False}
    assert hardware.versions().keys() == {"python", "torch", "numpy"}


def test_mps_is_found_by_its_control_pipe(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    assert not hardware.nvidia_mps_is_running()
    (tmp_path / "control").touch()
    assert hardware.nvidia_mps_is_running()
