"""The machine: memory that is kept between steps."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from benchmark.machine import keep_memory
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
