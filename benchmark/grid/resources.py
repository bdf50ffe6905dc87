"""Where the runs of a plan compute, and how many of them at a time."""

from benchmark.config.schema import Config, ExecutorConfig
from benchmark.tables.cells import counted
from benchmark.training.hardware import Hardware, visible_gpus


def hardware_of_runs(config: Config) -> Hardware:
    """Return what the runs compute on: this machine, or the resources of a run on a cluster.

    Raises UserError where this machine, or a run on the cluster, lacks what the config asks for.
    """
    executor = config.executor
    processes = config.processes if config.distributed else 1
    if executor.name == "local":
        options = config.compile, config.cuda_graph, processes
        return Hardware.resolve(config.device, config.threads, config.jobs, *options)
    gpus, cpus = executor.gpus or 0, executor.cpus or 1
    options = config.compile, config.cuda_graph, processes or int(gpus)
    return Hardware.of_cluster(gpus, config.threads, cpus, *options)


def gpu_groups(hardware: Hardware) -> list[str]:
    """Return the GPUs of this machine in groups, one for each run at a time, as entries of CUDA_VISIBLE_DEVICES."""
    gpus, size = visible_gpus(hardware.device), hardware.processes
    return [",".join(gpus[i : i + size]) for i in range(0, len(gpus) - size + 1, size)]


def runs_at_a_time(config: Config, hardware: Hardware) -> int:
    """Return how many runs train at a time on this machine: `jobs`, on each of several GPUs."""
    return config.jobs * max(1, _gpus(config, hardware))


def describe(config: Config, hardware: Hardware) -> list[str]:
    """Return lines that say where the runs compute, in which precision, and how many at a time."""
    runs, gpus = runs_at_a_time(config, hardware), _gpus(config, hardware)
    where = hardware.name if config.executor.name == "local" else config.executor.name
    parts = [f"on {where} ({hardware.device}, {hardware.threads} threads)", f"precision {config.precision}"]
    if hardware.processes > 1:
        parts.append(f"{hardware.processes} processes a run")
    if runs > 1:
        groups = "GPUs" if hardware.processes == 1 else f"groups of {hardware.processes} GPUs"
        parts.append(f"{runs} runs at a time" + (f" on {gpus} {groups}" if gpus > 1 else ""))
    return [", ".join(parts), *([] if config.executor.name == "local" else [_describe_executor(config.executor)])]


def _gpus(config: Config, hardware: Hardware) -> int:
    """Return over how many GPUs of this machine, or groups of them, the runs are spread."""
    return len(gpu_groups(hardware)) if config.executor.name == "local" else 0


def _describe_executor(executor: ExecutorConfig) -> str:
    """Return in words where the runs of a cluster are executed, and what each gets."""
    where = [executor.name, *(name for name in (executor.partition, executor.address) if name)]
    parts = [counted(executor.cpus or 1, "core"), *([f"{executor.gpus:g} GPU"] if executor.gpus else [])]
    parts += [f"{executor.mem_gb:g} GB"] if executor.mem_gb else []
    limit = f", requeued after {executor.minutes} minutes" if executor.minutes else ""
    return f"executor {' '.join(where)}: {' and '.join(parts)} a run{limit}"
