"""Keys of executors: those of another executor, and resources that contradict the device."""

import pytest

from benchmark.config.compose import load_config
from benchmark.errors import UserError


def test_the_local_executor_is_the_default():
    executor = load_config([]).executor
    assert executor.name == "local" and {v for k, v in vars(executor).items() if k != "name"} == {None}


def test_options_of_sbatch_are_taken_literally():
    words = ["executor=slurm", "executor.extra=--qos=low --exclusive", "executor.setup=module load a; x='1,2'"]
    executor = load_config(words).executor
    assert (executor.extra, executor.setup) == ("--qos=low --exclusive", "module load a; x='1,2'")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["executor=pbs"], "unknown executor 'pbs'"),
        (["executor.partition=gpu"], "executor.partition is not a key of executor=local"),
        (["executor=ray", "executor.minutes=5"], "executor.minutes is not a key of executor=ray"),
        (["executor=slurm", "executor.address=auto"], "executor.address is not a key of executor=slurm"),
        (["executor=slurm", "jobs=4"], "the runs at a time follow from executor.array_parallelism"),
        (["executor=ray", "jobs=4"], "the runs at a time follow from executor.cpus and executor.gpus"),
        (["executor=slurm", "executor.gpus=0.5"], "on Slurm a run takes 0 or 1"),
        (["executor=slurm", "device=cuda"], "device=cuda needs executor.gpus=1"),
        (["executor=ray", "device=cpu", "executor.gpus=1"], "give executor.gpus=0"),
        (["executor=slurm", "executor.minutes=0"], "executor.minutes is 0: it must be at least 1"),
        (
            ["executor=slurm", "executor.minutes=3"],
            "executor.minutes is 3: Slurm may end a run 60 s before executor.signal_s=120",
        ),
        (["executor=slurm", "executor.prtition=a"], "unknown key 'executor.prtition'; did you mean executor.partition"),
    ],
)
def test_contradictions_are_refused(words, message):
    with pytest.raises(UserError) as error:
        load_config(words)
    assert message in str(error.value)
