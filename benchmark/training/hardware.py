"""The hardware of a run: device and threads, their setup, and what results record of them."""

import ctypes
import functools
import math
import os
import platform
import shutil
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from benchmark.errors import UserError


@dataclass(frozen=True)
class Hardware:
    """Where and how a run computes. It is not part of a run's identity."""

    device: str  # cpu or cuda
    threads: int  # of a run; of each process where several train it
    compiled: bool  # student, losses and live teacher run through torch.compile
    graphs: bool  # training steps are captured as CUDA graphs
    side_by_side: int = 1  # runs whose steps are branches of one graph
    processes: int = 1  # that train a run together, each on a GPU of its own or by `threads`; they capture no steps

    @staticmethod
    def resolve(
        device: str, threads: int, jobs: int, compiled: bool, graphs: bool | None, processes: int | None = 1
    ) -> "Hardware":
        """Resolve `auto`, 0 and None where `jobs` runs train at a time, or that many on each of several GPUs: in one
        process where one GPU captures their steps, else in processes that share the cores.

        processes: that train a run together; None: one for each GPU. Raises UserError where there is no such GPU, where
        there are fewer cores than `threads`, no compiler for `compiled`, no GPU for `graphs`, or fewer GPUs than
        `processes`.
        """
        cores = os.cpu_count() or 1
        if threads > cores:
            raise UserError(f"threads is {threads}: this machine has {cores} cores; 0 uses all of them")
        if device == "cuda" and not torch.cuda.is_available():
            raise UserError("device=cuda: no GPU is usable here; use device=cpu or device=auto")
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        compiler = os.environ.get("CXX", "g++")
        if compiled and device == "cpu" and shutil.which(compiler) is None:
            raise UserError(f"compile=true needs a C++ compiler, and {compiler} is not installed: install or set CXX")
        if graphs and device == "cpu":
            raise UserError("cuda_graph=true: training runs on the CPU here, and only a GPU captures steps")
        graphs = device == "cuda" if graphs is None else graphs
        gpus = len(visible_gpus(device))
        available = min(torch.get_num_threads(), usable_cores())  # torch counts physical cores or OMP_NUM_THREADS
        if (size := _count_processes(processes, device, gpus)) > 1:
            cores = threads or available // max(gpus // size, 1)  # a run on each group of so many GPUs
            return Hardware(device, max(1, cores // size), compiled, graphs=False, processes=size)
        processes, side_by_side = (1, jobs) if graphs and gpus < 2 else (jobs * max(gpus, 1), 1)
        return Hardware(device, threads or max(1, available // processes), compiled, graphs, side_by_side)

    @staticmethod
    def of_cluster(
        gpus: float, threads: int, cpus: int, compiled: bool, graphs: bool | None, processes: int = 1
    ) -> "Hardware":
        """Return the hardware of a run with resources of another machine, which is not looked at.

        processes: that train the run together. Raises UserError where `graphs` needs a GPU.
        """
        if graphs and not gpus:
            raise UserError("cuda_graph=true: runs have no GPU (executor.gpus=0), and only a GPU captures steps")
        graphs = bool(gpus) if graphs is None else graphs
        threads = max(1, (threads or cpus) // processes)
        return Hardware("cuda" if gpus else "cpu", threads, compiled, graphs and processes == 1, processes=processes)

    def prepare(self) -> None:
        """Set up this process for training: threads, memory, and on a GPU the fastest convolutions, which cuDNN finds
        by trying its kernels at each new shape."""
        torch.set_num_threads(self.threads)
        keep_freed_memory()
        torch.backends.cudnn.benchmark = self.device == "cuda"

    @property
    def name(self) -> str:
        """The model name of the GPU or CPU."""
        if self.device == "cuda" and not torch.cuda.is_available():  # of a plan for another machine
            return "a GPU"
        return torch.cuda.get_device_name() if self.device == "cuda" else _cpu_name()

    @property
    def model(self) -> str:
        """What tells processors of one name apart, as virtual machines often hide the product: vendor, family, model
        and stepping of the CPU; empty for a GPU, whose name says all."""
        return "" if self.device == "cuda" else _cpu_model()

    def describe(self) -> dict[str, Any]:
        """Return the hardware as results record it."""
        record = {"device": self.device, "name": self.name, "threads": self.threads, "compiled": self.compiled}
        record |= {"cuda_graph": self.graphs} if self.device == "cuda" else {}
        record |= {"side_by_side": self.side_by_side} if self.side_by_side > 1 else {}
        return record | ({"processes": self.processes} if self.processes > 1 else {})


def _count_processes(processes: int | None, device: str, gpus: int) -> int:
    """Return how many processes train a run together. Raises UserError where the machine has no GPU for each."""
    if processes == 1:
        return 1
    if processes is None and device == "cpu":
        raise UserError("distributed=true on a CPU: say how many processes train a run, as in processes=2")
    if processes is not None and device == "cuda" and processes > gpus:
        raise UserError(f"processes is {processes}: {gpus} GPUs can be used here, and each process has one of its own")
    return processes or gpus


def usable_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the number of cores that this process may use: those it may run on, within its container's CPU quota."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        if (cgroup / "cpu.max").exists():  # cgroups of version 2
            quota, period = (cgroup / "cpu.max").read_text().split()
        else:
            quota, period = ((cgroup / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        cores = math.ceil(int(quota) / int(period))
    except (OSError, ValueError, ZeroDivisionError):  # no cgroups, or the quota is "max": unlimited
        return bound
    return min(bound, cores) if cores > 0 else bound  # -1 is unlimited in version 1


def visible_gpus(device: str) -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; none for the device `cpu`."""
    if device != "cuda":
        return []
    count, names = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return ([name.strip() for name in names.split(",")] if names else [str(i) for i in range(count)])[:count]


def nvidia_mps_is_running() -> bool:
    """Return True if NVIDIA's MPS runs, by which processes share a GPU at the same time instead of taking turns."""
    default = Path(tempfile.gettempdir(), "nvidia-mps")
    return Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", default), "control").exists()


def keep_freed_memory() -> None:
    """Make this process keep freed memory for its next step instead of returning it to the system.

    On a CPU a step frees and allocates hundreds of megabytes, and up to a third of its time would be spent in the
    kernel, clearing pages. Without glibc this has no effect.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        m_trim_threshold, m_mmap_max = -1, -4  # of malloc.h
        mallopt(m_trim_threshold, -1)  # never return memory from the top of the heap
        mallopt(m_mmap_max, 0)  # allocate large blocks on the heap too: mapped ones are returned when freed


def return_freed_memory() -> None:
    """Undo `keep_freed_memory` in a process that was forked from this one: blocks of ever other sizes, as photographs
    need, would fragment a heap that is never trimmed."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        m_trim_threshold, m_mmap_threshold, m_mmap_max = -1, -3, -4  # of malloc.h
        mallopt(m_mmap_max, 65_536)  # glibc's own value
        mallopt(m_mmap_threshold, 128 * 1024)  # likewise, and fixed: larger blocks are returned when freed
        mallopt(m_trim_threshold, 128 * 1024)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries on which numbers depend."""
    return {"python": platform.python_version(), "torch": torch.__version__, "numpy": metadata.version("numpy")}


def _cpu_name() -> str:
    return _cpu_fields().get("model name") or platform.processor() or platform.machine()


def _cpu_model() -> str:
    fields, arm = _cpu_fields(), ("CPU implementer", "CPU part", "CPU variant", "CPU revision")
    return " ".join(fields[key] for key in ("vendor_id", "cpu family", "model", "stepping", *arm) if key in fields)


@functools.cache  # plans ask for each finished run
def _cpu_fields(cpuinfo: Path = Path("/proc/cpuinfo")) -> dict[str, str]:
    """Return what Linux says about the first core; nothing on other systems."""
    try:
        first = cpuinfo.read_text().strip().split("\n\n")[0]
    except OSError:
        return {}
    pairs = [line.partition(":") for line in first.splitlines()]
    return {key.strip(): value.strip() for key, _, value in pairs}
