"""What can be said of the queue of Slurm without one; `tests/cluster` uses a real one."""

import json
import signal
from pathlib import Path

import pytest

from benchmark.config.compose import load_config
from benchmark.errors import UserError
from benchmark.grid import slurm
from benchmark.grid.slurm import SlurmQueue
from benchmark.training.hardware import Hardware


def queue(folder: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> SlurmQueue:
    options = load_config(["executor=slurm", *words]).executor
    with monkeypatch.context() as patch:  # as if Slurm and submitit were installed
        patch.setattr(slurm.shutil, "which", lambda _: "/usr/bin/sbatch")
        patch.setattr(slurm.importlib.util, "find_spec", lambda _: object())
        return SlurmQueue(options, folder)


def test_what_is_missing_is_named_with_the_remedy(tmp_path, monkeypatch):
    options = load_config(["executor=slurm"]).executor
    with monkeypatch.context() as patch:
        patch.setattr(slurm.importlib.util, "find_spec", lambda _: None)
        with pytest.raises(UserError, match=r"needs submitit: pip install -c constraints.txt -e '\.\[slurm\]'"):
            SlurmQueue(options, tmp_path)
        patch.setattr(slurm.importlib.util, "find_spec", lambda _: object())
        patch.setattr(slurm.shutil, "which", lambda _: None)
        with pytest.raises(UserError, match="sbatch is not installed here"):
            SlurmQueue(options, tmp_path)


def test_resources_become_parameters_of_submitit(tmp_path, monkeypatch):
    words = ["executor.gpus=1", "executor.mem_gb=1.5", "executor.partition=gpu", "executor.extra=--qos=low --exclusive"]
    parameters = queue(tmp_path, monkeypatch, *words)._parameters(after="12_3")
    assert parameters == {
        "job_name": queue(tmp_path, monkeypatch).name, "time": 240, "signal_delay_s": 120, "partition": "gpu",
        "cpus_per_task": 2, "gpus_per_node": 1, "array_parallelism": 64, "mem": "1536M", "dependency": "afterany:12_3",
        "additional_parameters": {"requeue": True, "qos": "low", "exclusive": True},
        "srun_args": ["--cpus-per-task=2"],
    }  # fmt: skip
    with pytest.raises(UserError, match=r"executor\.extra: 'qos=low' is no option of sbatch"):
        queue(tmp_path, monkeypatch, "executor.extra=qos=low")._parameters(None)


def test_the_queue_is_asked_again_until_slurm_answers(tmp_path, monkeypatch, capsys):
    answers = [None, "7_0|RUNNING|None\n7_1|PENDING|Resources\n8|COMPLETING|None\n"]
    monkeypatch.setattr(slurm, "_slurm", lambda *_: answers.pop(0))
    monkeypatch.setattr(slurm.time, "sleep", lambda _: None)
    states = queue(tmp_path, monkeypatch)._states()
    assert states == {"7_0": "running", "7_1": "pending (Resources)", "8": "completing"}
    assert "Slurm does not answer" in capsys.readouterr().err


def test_a_foreign_or_damaged_outcome_is_not_that_of_a_job(tmp_path, monkeypatch, finished):
    from benchmark.grid.progress import Progress
    from benchmark.grid.queued import QueuedRun
    from tests.helpers import plan_of, student_runs, tracking_of

    plan, here = plan_of(finished), queue(tmp_path, monkeypatch)
    queued = QueuedRun(student_runs(plan)["kd"], tracking_of(plan), Progress(1), 6, 0.0)
    path = here.folder / "outcomes" / f"{queued.run.key}.json"
    path.parent.mkdir(parents=True)
    for text in ("{", json.dumps({"job": "6_0", "name": "a", "status": "done"})):
        path.write_text(text)
        assert here._outcome("7_0", queued, last=False) is None and path.exists()
    died = here._outcome("7_0", queued, last=True)
    assert died is not None and died.status == "failed" and "its job 7_0 was cancelled or died" in died.reason
    path.write_text(json.dumps({"job": "7_0", "name": "a", "status": "done", "reason": "", "tracking": "off"}))
    assert str(here._outcome("7_0", queued, last=False)) == "a: done" and not path.exists()


def test_a_plan_for_a_cluster_does_not_look_at_this_machine(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    hardware = Hardware.of_cluster(1, 0, 4, False, None)
    assert (hardware.device, hardware.threads, hardware.graphs, hardware.name) == ("cuda", 4, True, "a GPU")
    assert Hardware.of_cluster(0, 3, 4, False, None) == Hardware("cpu", 3, False, False)
    with pytest.raises(UserError, match="runs have no GPU"):
        Hardware.of_cluster(0, 0, 4, False, True)


def test_the_exit_of_submitit_interrupts_the_run_instead_of_failing_it():
    def exit_as_submitit_does(*_: object) -> None:
        raise SystemExit(-1)

    before = signal.signal(signal.SIGUSR2, exit_as_submitit_does)
    try:
        slurm._interrupt_where_submitit_exits()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGUSR2)
    finally:
        signal.signal(signal.SIGUSR2, before)
