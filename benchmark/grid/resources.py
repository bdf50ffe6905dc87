"""Where the runs of a plan compute, and how many of them at a time."""

from benchmark.config.schema import Config
from benchmark.training.hardware import Hardware, visible_gpus


def runs_at_a_time(config: Config, hardware: Hardware) -> int:
    """Return how many runs train at a time: `jobs`, on each of several GPUs."""
    return config.jobs * max(1, len(visible_gpus(hardware.device)))


def describe_jobs(config: Config, hardware: Hardware) -> str:
    """Return in words how many runs train at a time; "" for one."""
    runs, gpus = runs_at_a_time(config, hardware), len(visible_gpus(hardware.device))
    return f"{runs} runs at a time" + (f" on {gpus} GPUs" if gpus > 1 else "") if runs > 1 else ""
