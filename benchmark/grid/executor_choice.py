"""The executor that a plan's config chooses, for everything but Slurm, whose queue outlives the command."""

import contextlib
from contextlib import AbstractContextManager

from benchmark.grid.executors import Executor, Processes
from benchmark.grid.lockstep import Lockstep
from benchmark.grid.plan import Plan
from benchmark.grid.ray_cluster import RayCluster
from benchmark.grid.resources import gpu_groups


def open_executor(plan: Plan) -> AbstractContextManager[Executor | None]:
    """Return the executor of a plan's runs as a context manager; its value is None where they are trained one after
    another in this process.

    On this machine they are trained `jobs` at a time, on each of several GPUs or groups of them: in one process where
    one GPU captures their steps, else in processes. Raises UserError where a cluster cannot be reached.
    """
    jobs, hardware, options = plan.config.jobs, plan.settings.hardware, plan.config.executor
    if options.name == "ray":
        return RayCluster(options)
    if options.name != "local":
        raise ValueError(f"executor={options.name} is a queue, not an executor")
    gpus = gpu_groups(hardware)
    if len(gpus) < 2 and jobs == 1:
        return contextlib.nullcontext()
    if len(gpus) < 2 and hardware.graphs:
        return Lockstep(jobs)
    return Processes(jobs, gpus if len(gpus) > 1 else ())
