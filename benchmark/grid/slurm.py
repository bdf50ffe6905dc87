"""Runs as jobs of Slurm, submitted by submitit as job arrays.

    <runs>/slurm/jobs.json            the job of every queued run, by the run's key
    <runs>/slurm/outcomes/<key>.json  how a run ended, written by its job, read and removed by the command that waits
    <runs>/slurm/<time>-<id>/         submitit's files of one array: its script, the pickled runs, and the jobs' output

A command that is stopped leaves its jobs in the queue; the same command waits for those that `jobs.json` and `squeue`
agree about, and submits the others. Before its time limit, and where Slurm asks for it, a run ends and is requeued by
submitit; it continues from its last checkpoint. Accounting (`sacct`) is not needed.
"""

import contextlib
import importlib.util
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from benchmark.config.schema import ExecutorConfig
from benchmark.console import protect_streams
from benchmark.errors import UserError
from benchmark.grid.queued import QueuedJob
from benchmark.grid.training_run import Outcome
from benchmark.runs import folder as store
from benchmark.runs.folder import RunBusy
from benchmark.runs.record import RunStatus
from benchmark.tables.cells import counted

FOLDER = "slurm"  # below that of all runs
POLL_S = 5.0  # seconds between two looks at the queue
GRACE_POLLS = 3  # a shared folder may show the outcome of an ended job late
SLURM_TIMEOUT_S = 60


class Detached(KeyboardInterrupt):
    """An interruption that leaves jobs in the queue; the message says how to look at them and cancel them."""


@dataclass(frozen=True)
class SlurmJob:
    """What Slurm executes: a queued job, whose outcome it writes to `outcomes`, and which is requeued as it is."""

    queued: QueuedJob
    outcomes: Path

    def __call__(self) -> None:
        """Execute the run and write its outcome."""
        import submitit

        protect_streams()
        job = submitit.JobEnvironment().job_id
        _interrupt_where_submitit_exits()
        try:
            outcome = self.queued()
        except KeyboardInterrupt as e:  # the job is requeued or ended
            raise SystemExit(-1) from e
        content = {"job": job, "name": outcome.name, "status": outcome.status, "reason": outcome.reason}
        store.write_json(self.outcomes / f"{self.queued.key}.json", {**content, "tracking": outcome.tracking})

    def checkpoint(self) -> Any:
        """Return what submitit requeues: the same run, which continues from its own checkpoint."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


class SlurmQueue:
    """The queue of a Slurm cluster. runs: root of all runs, which all nodes see.

    Raises UserError where Slurm or submitit is missing.
    """

    def __init__(self, options: ExecutorConfig, runs: Path) -> None:
        if importlib.util.find_spec("submitit") is None:
            raise UserError("executor=slurm needs submitit: pip install -c constraints.txt -e '.[slurm]'")
        if shutil.which("sbatch") is None:
            raise UserError(
                "executor=slurm: sbatch is not installed here; give the command on a login node of a cluster"
            )
        self.options, self.folder = options, runs.absolute() / FOLDER
        self.name = f"kd-{store.identity({'runs': str(self.folder)})[:8]}"  # of all jobs of these runs

    def enqueue(self, runs: Sequence[QueuedJob], after: str | None = None) -> list[str]:
        """Submit runs as job arrays, but for those in the queue. Return the jobs' ids. after: see `RunQueue`."""
        try:
            with store.lock(self.folder / "lock", wait=True):  # another command may submit the same runs
                return self._enqueue(runs, after)
        except RunBusy as e:
            raise UserError(f"{self.folder / 'lock'} is held: {e}") from e

    def _enqueue(self, runs: Sequence[QueuedJob], after: str | None) -> list[str]:
        states = self._states()
        recorded = store.read_json(self.folder / "jobs.json") or {}
        jobs = {key: job for key, job in recorded.items() if job in states}
        new = [queued for queued in runs if queued.key not in jobs]
        if len(new) < len(runs):
            print(f"Slurm: {counted(len(runs) - len(new), 'run')} in the queue already", flush=True)
        size = self._largest_array()
        for start in range(0, len(new), size):
            part = new[start : start + size]
            ids = self._submit(part, after)
            jobs |= {queued.key: job for queued, job in zip(part, ids, strict=True)}
            store.write_json(self.folder / "jobs.json", jobs)
            array = ids[0].split("_")[0]
            dependency = f", after job {after}" if after else ""
            print(f"Slurm: submitted {counted(len(part), 'run')} as job {array} ({self.name}){dependency}", flush=True)
        return [jobs[queued.key] for queued in runs]

    def _submit(self, runs: Sequence[QueuedJob], after: str | None) -> list[str]:
        """Submit one array. Raises UserError with Slurm's reason where it refuses."""
        import submitit
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        folder = self.folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
        folder.mkdir(parents=True)
        executor = submitit.SlurmExecutor(folder, max_num_timeout=self.options.requeues or 0)
        executor.update_parameters(**self._parameters(after))
        try:
            jobs = executor.submit_array([SlurmJob(queued, self.folder / "outcomes") for queued in runs])
        except (FailedJobError, FailedSubmissionError) as e:
            reason = next((line for line in str(e).splitlines() if "error:" in line), str(e))
            raise UserError(f"Slurm refuses the jobs: {reason.split('error: ', 1)[-1].strip()}") from e
        return [job.job_id for job in jobs]

    def _parameters(self, after: str | None) -> dict[str, Any]:
        """Return submitit's parameters."""
        options = self.options
        parameters = {
            "job_name": self.name, "time": options.minutes, "signal_delay_s": options.signal_s,
            "partition": options.partition, "account": options.account, "cpus_per_task": options.cpus,
            "gpus_per_node": int(options.gpus or 0) or None, "array_parallelism": options.array_parallelism,
            "mem": f"{round(1024 * options.mem_gb)}M" if options.mem_gb else None,
            "dependency": f"afterany:{after}" if after else None,
            "setup": [options.setup] if options.setup else None,
            "additional_parameters": {"requeue": True, **_sbatch_options(options.extra or "")},
            "srun_args": [f"--cpus-per-task={options.cpus}"],  # from 22.05 on, srun does not follow sbatch here
        }  # fmt: skip
        return {key: value for key, value in parameters.items() if value is not None}

    def outcomes(self, jobs: Mapping[str, QueuedJob]) -> Iterator[Outcome]:
        """Wait for jobs, and yield each outcome when it is there. Raises Detached at Ctrl-C."""
        waiting, gone, shown = dict(jobs), Counter[str](), ""
        try:
            while waiting:
                states = self._states()
                for job, queued in list(waiting.items()):
                    gone[job] += job not in states
                    if (outcome := self._outcome(job, queued, last=gone[job] > GRACE_POLLS)) is not None:
                        del waiting[job]
                        print(f"[{len(jobs) - len(waiting)}/{len(jobs)}] {outcome}", flush=True)
                        yield outcome
                counts = Counter(states.get(job, "ended") for job in waiting)
                line = ", ".join(f"{n} {state}" for state, n in sorted(counts.items()))
                if waiting and line != shown:
                    print(f"Slurm: {line}", flush=True)
                    shown = line
                if waiting:
                    time.sleep(POLL_S)
        except KeyboardInterrupt as e:
            raise Detached(
                f"{len(waiting)} runs stay in Slurm's queue: look with squeue --name={self.name}, cancel with "
                f"scancel --name={self.name}; the same command waits for them again"
            ) from e

    def _outcome(self, job: str, queued: QueuedJob, *, last: bool) -> Outcome | None:
        """Return how a run ended; None while its job has not said so. last: the job has ended, nothing will come."""
        path = self.folder / "outcomes" / f"{queued.key}.json"
        content = store.read_json(path)
        if content is not None and content.get("job") == job:
            path.unlink(missing_ok=True)
            name, status, reason, tracking = (
                str(content.get(key, "")) for key in ("name", "status", "reason", "tracking")
            )
            return Outcome(name, status, reason, tracking)
        if not last:
            return None
        output = next(self.folder.glob(f"*/{job}_0_log.err"), self.folder)
        return Outcome(queued.name, RunStatus.FAILED, f"its job {job} was cancelled or died (output in {output})")

    def _states(self) -> dict[str, str]:
        """Return the states of all jobs of these runs that are queued or running. Waits while Slurm does not answer."""
        while True:
            listing = _slurm("squeue", "--noheader", "--array", f"--name={self.name}", "--format=%i|%T|%r")
            if listing is not None:
                break
            print("Slurm does not answer: trying again", file=sys.stderr, flush=True)
            time.sleep(POLL_S)
        rows = [line.split("|") for line in listing.splitlines()]
        return {job: _state(state, reason) for job, state, reason in rows}

    def _largest_array(self) -> int:
        limit = re.search(r"MaxArraySize\s*=\s*(\d+)", _slurm("scontrol", "show", "config") or "")
        return max(1, int(limit[1]) if limit else 1)


def _interrupt_where_submitit_exits() -> None:
    """Turn the exit of submitit, after it has requeued the job, into an interruption of the run by the user.

    A SystemExit within a run counts as a failure, as of a method that calls sys.exit.
    """
    handler = signal.getsignal(signal.SIGUSR2)
    if not callable(handler):
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        try:
            handler(number, frame)
        except SystemExit as e:
            raise KeyboardInterrupt from e

    signal.signal(signal.SIGUSR2, interrupt)


def _state(state: str, reason: str) -> str:
    """Return a job's state in words, with the reason why a pending one does not start."""
    return f"pending ({reason})" if state == "PENDING" and reason != "None" else state.lower()


def _sbatch_options(text: str) -> dict[str, Any]:
    """Return the options of a text such as `--qos=low --exclusive` by name. Raises UserError for anything else."""
    options: dict[str, Any] = {}
    for word in shlex.split(text):
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not name:
            raise UserError(f"executor.extra: {word!r} is no option of sbatch; write --name=value")
        options[name] = value if equals else True
    return options


def _slurm(*command: str) -> str | None:
    """Return the output of a command of Slurm; None where it fails."""
    with contextlib.suppress(subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=SLURM_TIMEOUT_S).stdout
    return None
