"""Runs that several processes train: results, resuming with other numbers, failures, and the end of all of them."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmark.grid import data_parallel
from benchmark.grid.data_parallel import ProcessFailed
from benchmark.grid.progress import Progress
from benchmark.grid.run import execute
from benchmark.runs import locks
from benchmark.runs.folder import RunFolder
from benchmark.runs.locks import RunBusy
from benchmark.training.evaluation import Diverged
from benchmark.training.hardware import Hardware
from benchmark.training.parallel import Parallel
from tests.conftest import ROOT
from tests.helpers import Killed, KilledAt, bench, let_be_interrupted, plan_of, student_runs, tracking_of, trained

TWO = Hardware("cpu", 1, False, False, processes=2)
# so small that rounding, which training amplifies, stays below the tolerances
GENTLE = ["recipe.lr=0.001", "recipe.batch_size=18"]  # batches of 18, 18 and 12 of the tiny data set
METRICS = {"rel": 1e-3, "abs": 1e-4}
WEIGHTS = {"rtol": 1e-3, "atol": 1e-4}
DISTRIBUTED = ["distributed=true", "processes=2"]


class Recorded(Progress):
    """Keeps the calls of a run's progress."""

    def __init__(self) -> None:
        super().__init__(1)
        self.calls: list[Any] = []

    @contextlib.contextmanager
    def cache_fill(self, name: str):
        yield lambda share: self.calls.append(("fill", name, share))
        self.calls.append("filled")

    def start(self, *args: Any) -> None:
        self.calls.append(("start", *args))

    def step(self, step: int, steps: int) -> None:
        self.calls.append(("step", step, steps))

    def epoch(self, line: Mapping[str, Any]) -> None:
        self.calls.append(("epoch", line))

    def stop(self) -> None:
        self.calls.append("stop")


def train(share: Callable[..., Any], tmp_path: Path, progress: Progress | None = None) -> Any:
    lock = tmp_path / "lock"
    return data_parallel.train(share, TWO, progress or Recorded(), lock, whole_batch_statistics=True)


# ---------------------------------------------------------------- processes


def report(parallel: Parallel, progress: Progress) -> tuple[int, int, int, bool]:
    with progress.cache_fill("kd") as fill:
        fill(0.5)
        fill(1.0)
    if parallel.rank == 0:
        progress.start("kd", 2, 0, None)
        progress.step(1, 2)
        progress.step(2, 2)  # too soon after the first
        progress.epoch({"epoch": 1})
        progress.stop()
    held = locks.claim_on(Path(os.environ["KD_LOCK"]))
    return parallel.rank, parallel.size, os.getpid(), held is not None


def test_the_first_process_returns_its_result_and_reports_progress(tmp_path, monkeypatch):
    progress = Recorded()
    monkeypatch.setenv("KD_LOCK", str(tmp_path / "lock"))
    with locks.lock(tmp_path / "lock"):
        rank, size, pid, held = train(report, tmp_path, progress)
    assert (rank, size, held) == (0, 2, True) and pid != os.getpid()
    fills = [("fill", "kd", 0.5), ("fill", "kd", 1.0)]
    other_calls = [call for call in progress.calls if call not in fills]
    assert other_calls == ["filled", ("start", "kd", 2, 0, None), ("step", 1, 2), ("epoch", {"epoch": 1}), "stop"]


def fail_in_second(parallel: Parallel, progress: Progress, how: str) -> None:
    if parallel.rank == 0:
        if how == "while the first is stuck":
            time.sleep(600)
        parallel.wait()
    if how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "left":
        os._exit(0)
    raise {"diverged": Diverged, "busy": RunBusy, "exit": SystemExit}.get(how, ValueError)(f"no luck\n{how}")


@pytest.mark.parametrize(
    ("how", "error", "reason"),
    [
        ("raised", ProcessFailed, "ValueError: no luck, in process 2 of 2"),
        ("while the first is stuck", ProcessFailed, "ValueError: no luck, in process 2 of 2"),
        ("exit", ProcessFailed, "SystemExit: no luck, in process 2 of 2"),
        ("killed", ProcessFailed, "process 2 of 2 ended with status -9"),
        ("left", ProcessFailed, "process 2 of 2 ended with status 0"),
        ("diverged", Diverged, "no luck\ndiverged"),
        ("busy", RunBusy, "no luck\nbusy"),
    ],
)
def test_a_process_that_fails_ends_all_with_its_reason(tmp_path, how, error, reason, monkeypatch):
    monkeypatch.setattr(data_parallel, "END_WAIT_S", 1.0)
    with pytest.raises(error) as raised:
        train(Fail(how), tmp_path)
    assert str(raised.value) == reason
    assert ("fail_in_second" in str(raised.value.__cause__)) == (how not in ("killed", "left"))
    assert not children_of(os.getpid())


class Fail:
    """`fail_in_second` in one way."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __call__(self, parallel: Parallel, progress: Progress) -> None:
        fail_in_second(parallel, progress, self.how)


def test_too_few_gpus_are_an_error_before_anything_starts(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    hardware = Hardware("cuda", 1, False, False, processes=2)
    with pytest.raises(ProcessFailed, match="needs 2 GPUs, and 1 can be used here"):
        data_parallel.train(report, hardware, Recorded(), tmp_path / "lock", whole_batch_statistics=True)


def children_of(pid: int) -> list[int]:
    """Return the living processes that a process has started through a server, but for one that counts resources."""
    return [child for server in _children_of(pid) for child in _children_of(server)]


def _children_of(pid: int) -> list[int]:
    children = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
            command = (path.parent / "cmdline").read_bytes()
            if int(parent) == pid and state != "Z" and b"resource_tracker" not in command:
                children.append(int(path.parent.name))
    return children


# ---------------------------------------------------------------- runs


def metrics(folder: RunFolder) -> list[dict[str, float]]:
    return trained(folder)[1]


def weights(folder: RunFolder) -> dict[str, np.ndarray]:
    return {k: v.numpy() for k, v in torch.load(folder.weights, weights_only=True).items()}


def assert_alike(folder: RunFolder, expected: RunFolder) -> None:
    assert metrics(folder) == [pytest.approx(line, **METRICS) for line in metrics(expected)]
    values = weights(folder)
    for name, value in weights(expected).items():
        np.testing.assert_allclose(values[name], value, **WEIGHTS, err_msg=name)


def test_a_command_gives_the_metrics_of_one_process(tmp_path, command):
    """On the digits: a teacher and a student, whose last batch is smaller."""
    words = [
        "pair=resnet8-resnet8", "methods=kd", "seeds=0", "references=false", "recipe.epochs=2", "recipe.lr=0.001",
        "dataset.train_size=80", "dataset.test_size=101", "recipe.batch_size=30",
        "teacher.train_size=null", "teacher.min_top1=0", "tracker=none", "device=cpu", "threads=2", "precision=fp32",
        f"reports={tmp_path / 'reports'}",
    ]  # fmt: skip
    for name, more in (("one", []), ("two", DISTRIBUTED)):
        done = command("benchmark", "bench", *words, f"runs={tmp_path / name}", *more)
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert "2 processes a run" in done.stdout
    one, two = (student_runs(plan_of([*words, f"runs={tmp_path / n}"]))["kd"].folder for n in ("one", "two"))
    (teacher,), (teacher_of_two,) = (sorted((tmp_path / n).glob("digits/teachers/*/*/seed=0")) for n in ("one", "two"))
    assert_alike(RunFolder(teacher_of_two), RunFolder(teacher))
    assert two.done and metrics(two) == [pytest.approx(line, **METRICS) for line in metrics(one)]
    hardware = two.record.hardware
    assert (hardware["processes"], hardware["threads"]) == (2, 1) and "processes" not in one.record.hardware
    assert sorted(p.name for p in two.path.iterdir()) == sorted(p.name for p in one.path.iterdir())


def test_a_run_continues_with_any_number_of_processes(tiny, tmp_path, capfd):
    words = [*tiny, *GENTLE, "methods=ab", "recipe.epochs=3"]
    plan, _ = bench(words)
    expected = student_runs(plan)["ab"].folder
    last = []
    for number, epoch in ((2, 1), (3, 2), (1, None)):
        more = [f"runs={tmp_path / 'again'}", *(["distributed=true", f"processes={number}"] if number > 1 else [])]
        plan = plan_of([*words, *more])
        if not last:
            bench([*words, "methods=ce", "recipe.epochs=3", f"runs={tmp_path / 'again'}"])  # trains the teacher
        (run,) = plan_of([*words, *more]).students("resnet14")
        if epoch is None:
            assert execute(run, tracking_of(plan), Progress(1)).status == "done"
        else:
            with pytest.raises(Killed):
                execute(run, tracking_of(plan), KilledAt(epoch))
            assert run.folder.status == "running" and run.folder.checkpoint.is_file()
        last.append(run)
    assert "resumed after epoch" in capfd.readouterr().out
    assert len({run.relative_path for run in last}) == 1, "the number of processes is not part of the identity"
    assert_alike(last[-1].folder, expected)


def test_a_failure_in_one_process_fails_the_run_with_its_traceback(tiny):
    network = "tests.benchmark.own_networks:fails_in_second_process"
    words = [*tiny, *DISTRIBUTED, f"network.broken={network}", "pair=broken-broken", "methods=ce"]
    _, outcomes = bench(words)
    assert {o.status for o in outcomes} == {"failed"}
    folder = RunFolder(Path(outcomes[0].reason.partition("traceback in ")[2][:-1]).parent)
    reason = "RuntimeError: not here, in process 2 of 2"
    assert folder.status_record.reason == reason and outcomes[0].reason.startswith(reason)
    assert "own_networks.py" in (folder.path / "error.txt").read_text()


# ---------------------------------------------------------------- the end of all processes


@pytest.fixture
def running(tiny, tmp_path):
    """Start a command of long runs; yield its process, the processes that train, and the command's words."""
    words = [*tiny, *DISTRIBUTED, "methods=ce", "recipe.epochs=2000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmark", "bench", *words], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=let_be_interrupted,
    )  # fmt: skip
    wait_for(lambda: any((tmp_path / "runs").rglob("checkpoint.pt")))
    ranks = children_of(process.pid)
    assert len(ranks) == 2
    yield process, ranks, words
    process.kill()


def wait_for(condition: Callable[[], bool], seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"the condition did not hold within {seconds} s"
        time.sleep(0.02)


def has_ended(pid: int) -> bool:
    return (
        not Path(f"/proc/{pid}").exists() or Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    )


def test_ctrl_c_ends_all_processes_and_leaves_the_run_resumable(running, tmp_path):
    process, ranks, _ = running
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err, err
    assert "the same command continues after the last finished epoch" in err
    assert all(map(has_ended, ranks))
    (status,) = (tmp_path / "runs").rglob("status.json")
    folder = RunFolder(status.parent)
    assert folder.status == "running" and folder.checkpoint.is_file()
    with folder.lock():
        pass


def test_processes_end_with_the_one_that_watches_them(running):
    process, ranks, _ = running
    process.kill()
    wait_for(lambda: all(map(has_ended, ranks)), 30)
