"""The machine a run uses: device, threads, precision, and what is recorded of them."""

import ctypes
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
    """Where a run computes; not part of its identity."""

    device: str  # cpu or cuda
    threads: int
    compiled: bool  # the network's training pass, the losses and the live teacher, by torch.compile
    graphs: bool  # training steps are recorded as CUDA graphs

    @staticmethod
    def find(device: str, threads: int, jobs: int, compiled: bool, graphs: bool | None) -> "Hardware":
        """Resolve `auto`, 0 and None, the cores being shared by `jobs` cells; raises UserError where there is no such
        GPU, fewer cores than `threads`, no compiler for `compiled`, or no GPU for `graphs`."""
        cores = os.cpu_count() or 1
        if threads > cores:
            raise UserError(f"threads is {threads}: this machine has {cores} cores; 0 takes them all")
        if device == "cuda" and not torch.cuda.is_available():
            raise UserError("device=cuda: no GPU is usable here; use device=cpu or device=auto")
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        compiler = os.environ.get("CXX", "g++")
        if compiled and device == "cpu" and shutil.which(compiler) is None:
            raise UserError(
                f"compile=true needs a C++ compiler, and there is no {compiler}: install one, or name it in CXX"
            )
        if graphs and device == "cpu":
            raise UserError("cuda_graph=true: the cells run on the CPU here, and only a GPU records its steps")
        graphs = device == "cuda" if graphs is None else graphs
        return Hardware(device, threads or max(1, torch.get_num_threads() // jobs), compiled, graphs)

    def prepare(self) -> None:
        """Set this process up for training: its threads, its memory, and on a GPU the fastest kernels for convolutions,
        found by trying them at each new shape."""
        torch.set_num_threads(self.threads)
        keep_memory()
        torch.backends.cudnn.benchmark = self.device == "cuda"

    @property
    def name(self) -> str:
        return torch.cuda.get_device_name() if self.device == "cuda" else _cpu_name()

    def precision(self, wanted: str) -> str:
        """`auto` resolved: bf16 where the hardware multiplies matrices faster in it, otherwise fp32."""
        if wanted != "auto":
            return wanted
        if self.device == "cuda":
            return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
        return "bf16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "fp32"

    def describe(self) -> dict[str, Any]:
        """Hardware as recorded in a result."""
        told = {"device": self.device, "name": self.name, "threads": self.threads, "compiled": self.compiled}
        return told | ({"cuda_graph": self.graphs} if self.device == "cuda" else {})


def mps() -> bool:
    """Whether NVIDIA's MPS runs, with which processes compute on a GPU at the same time; without it they take turns."""
    usual = Path(tempfile.gettempdir(), "nvidia-mps")
    return Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", usual), "control").exists()


def keep_memory() -> None:
    """Have this process keep the memory that it frees, for its next step, instead of giving it back to the system.

    On a CPU a step frees and asks anew for hundreds of megabytes, and without this up to a third of its time goes into
    the system's clearing them. Does nothing where the C library is not glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        m_trim_threshold, m_mmap_max = -1, -4  # of malloc.h
        mallopt(m_trim_threshold, -1)  # never give back
        mallopt(m_mmap_max, 0)  # nor allocate large pieces apart, which are given back when freed


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that numbers depend on."""
    return {"python": platform.python_version(), "torch": torch.__version__, "numpy": metadata.version("numpy")}


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as f:
            return next(line.split(":", 1)[1].strip() for line in f if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
