"""The machine: memory that is kept between steps."""

import platform
import subprocess
import sys

import pytest
import torch

from benchmark.errors import UserError
from benchmark.training.hardware import Hardware

FAULTS = """
import resource, torch
from benchmark.training.hardware import keep_memory
{call}
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for size in (2**20, 2**24, 2**25):  # 4, 64 and 128 MB
    for _ in range(10):
        torch.ones(size)
    before = faults()
    for _ in range(10):
        torch.ones(size)
    print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="keeps memory with glibc alone")
def test_memory_that_is_kept_is_not_faulted_in_anew():
    def measured(call):
        script = FAULTS.format(call=call)
        found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        return [int(line) for line in found.stdout.split()]

    assert max(measured("keep_memory()")) <= 5
    assert max(measured("")) > 100


def test_cores_are_shared_by_the_jobs(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    assert Hardware.find("cpu", 0, 1, False, False).threads == torch.get_num_threads()
    assert Hardware.find("cpu", 0, 1000, False, False).threads == 1
    assert Hardware.find("cpu", 3, 1000, False, False).threads == 3
    with pytest.raises(UserError, match="threads is 5: this machine has 4 cores"):
        Hardware.find("cpu", 5, 1, False, False)


def test_steps_are_recorded_on_a_gpu_unless_told_otherwise(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert Hardware.find("auto", 1, 1, False, None).graphs and not Hardware.find("cuda", 1, 1, False, False).graphs
    assert not Hardware.find("cpu", 1, 1, False, None).graphs
    with pytest.raises(UserError, match="cuda_graph=true: the cells run on the CPU here"):
        Hardware.find("cpu", 1, 1, False, True)


def test_compiling_without_a_compiler_is_refused_in_one_line(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"compile=true needs a C\+\+ compiler, and there is no no-such-compiler"):
        Hardware.find("cpu", 1, 1, True, False)
    assert not Hardware.find("cpu", 1, 1, False, False).compiled
