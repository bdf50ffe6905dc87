"""Kill a benchmark at random file events, repeat the command, and compare with an uninterrupted run: `make chaos`.

A trial runs one command, which trains a teacher and three students with caches of the teacher's outputs, and makes
tables. Each attempt happens in a forked process that gets SIGKILL at a random file event (open, rename, remove, make or
remove a folder), or some milliseconds after it, so that files are also cut in the middle of a write. After at least one
kill the command runs to its end. The weights and metrics of all runs, and the tables of accuracies and tests, must then
equal those of the uninterrupted command.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: a forked process has no thread pool

from analysis.load import run_folders
from benchmark.__main__ import main as benchmark_main
from benchmark.runs.folder import RunFolder
from tests.conftest import write_tiny
from tests.helpers import TrainedRun, same, trained

EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")
MAX_DELAY_S = 0.05  # of a kill after its event
KILLED_AGAIN = 0.4  # probability that the repeated command is killed, too
COMMAND = (
    "bench", "pair=resnet20-resnet8", "methods=ce,kd,crd", "seeds=0", "profile=quick", "dataset=npz",
    "dataset.file=tiny.npz", "recipe.epochs=3", "recipe.batch_size=16", "teacher.min_top1=0", "precision=fp32",
    "threads=1", "tracker.mode=off", "data=data",
)  # fmt: skip


@dataclass
class Summary:
    """Counts of a campaign. differences: trials whose results were not exact, with the folder that shows it."""

    trials: int = 0
    kills: int = 0
    differences: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        exact = self.trials - len(self.differences)
        return "\n".join([f"{self.trials} trials, {self.kills} kills, {exact} exact", *self.differences])


@dataclass(frozen=True)
class Results:
    """What a finished command leaves: its runs by folder, and its tables but that of costs, which are times."""

    runs: dict[str, TrainedRun]
    tables: list[str]

    def equals(self, other: "Results") -> bool:
        """Return whether all runs and tables are the same."""
        runs = self.runs.keys() == other.runs.keys() and all(same(run, other.runs[k]) for k, run in self.runs.items())
        return runs and self.tables == other.tables


def results_in(folder: Path) -> Results:
    """Return the results of a finished command. Raises OSError where a file of it is missing."""
    runs = {str(run.relative_to(folder)): trained(RunFolder(run)) for run in run_folders(folder / "runs")}
    tables = sorted((folder / "reports" / "tables").glob("*.tex"))
    return Results(runs, [table.read_text() for table in tables if not table.name.endswith("-cost.tex")])


def attempt(folder: Path, event: int | None = None, delay_s: float = 0.0) -> int:
    """Run the command in a forked process in `folder`; return its exit status, or −9 where it was killed.

    event: number of the file event to be killed at, counted from 1; None to count all events in the file `events`.
    delay_s: time between the event and the kill.
    """
    if (process := os.fork()) == 0:
        _run(folder, event, delay_s)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def _run(folder: Path, event: int | None, delay_s: float) -> NoReturn:
    os.chdir(folder)
    output = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    count = 0

    def hook(name: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if name in EVENTS and isinstance(arguments[0], str | os.PathLike) and _is_data(folder, arguments[0]):
            count += 1
            if count == event:
                kill_after(delay_s)

    sys.addaudithook(hook)
    status = 1
    try:
        status = benchmark_main(COMMAND)
        total = count
        if event is None:
            Path("events").write_text(str(total))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def kill_after(delay_s: float) -> None:
    """Kill this process by SIGKILL, from a thread where it is to go on for a while."""
    if not delay_s:
        os.kill(os.getpid(), signal.SIGKILL)

    def wait_and_kill() -> None:
        time.sleep(delay_s)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait_and_kill, daemon=True).start()


def _is_data(folder: Path, path: str | os.PathLike[str]) -> bool:
    path = os.path.join(folder, path)
    return path.startswith(f"{folder}/runs") or path.startswith(f"{folder}/reports")


def campaign(folder: Path, kills: int, seed: int) -> Summary:
    """Run trials in subfolders of `folder` until `kills` processes were killed."""
    rng, summary = random.Random(seed), Summary()
    reference = _prepare(folder / "reference")
    if status := attempt(reference):
        raise RuntimeError(f"the uninterrupted command ended with status {status}: {reference}/output.txt")
    expected, events = results_in(reference), int((reference / "events").read_text())
    if len(expected.runs) != 4 or len(expected.tables) != 2:
        raise RuntimeError(
            f"the uninterrupted command left {len(expected.runs)} runs and {len(expected.tables)} tables"
        )
    while summary.kills < kills:
        trial = _prepare(folder / f"trial-{summary.trials}")
        summary.trials += 1
        statuses = [-signal.SIGKILL]
        while statuses[-1] == -signal.SIGKILL:
            last = len(statuses) > 1 and rng.random() > KILLED_AGAIN
            delay_s = rng.choice([0.0, rng.uniform(0, MAX_DELAY_S)])
            statuses.append(attempt(trial, sys.maxsize if last else rng.randint(1, events), delay_s))
            summary.kills += statuses[-1] == -signal.SIGKILL
        if problem := _problem(trial, statuses[-1], expected):
            summary.differences.append(f"{trial}: {problem}")
        print(f"\r{summary.trials} trials, {summary.kills} kills", end="", file=sys.stderr, flush=True)
    return summary


def _problem(trial: Path, status: int, expected: Results) -> str | None:
    """Why the results of a trial are not exact; None where they are."""
    if status:
        return f"the repeated command ended with status {status}"
    try:
        return None if results_in(trial).equals(expected) else "other weights, metrics or tables"
    except OSError as e:
        return f"no {e.filename}"


def _prepare(folder: Path) -> Path:
    (folder / "data").mkdir(parents=True)
    write_tiny(folder / "data" / "tiny.npz")
    return folder


def main() -> int:
    """Run a campaign of the command line; return 1 where a trial was not exact."""
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    summary = campaign(Path(tempfile.mkdtemp(prefix="chaos-")), options.kills, options.seed)
    print(f"\n{summary}")
    return 1 if summary.differences else 0


if __name__ == "__main__":
    sys.exit(main())
