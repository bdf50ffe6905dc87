"""A real Slurm of one node on this machine, for tests and for trying `executor=slurm`.

    python -m tests.cluster.slurm_node FOLDER     start it, print what to export, and stop it at Ctrl-C

munged, slurmctld and slurmd are started as plain processes with all their files in one folder. There is no systemd, no
accounting and no cgroup, and all ports are on the loopback interface. A requeued job starts once its credential has
expired, here after 15 s instead of Slurm's 120. It needs root, and Debian's slurm-wlm and munge.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

NODE, PARTITION = "node1", "main"
DAEMONS = ("munged", "slurmctld", "slurmd")
MUNGE_USER = "munge"
START_S = 30  # the daemons answer within seconds
CONFIG = """\
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=15
CryptoType=crypto/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=5,batch_sched_delay=0,requeue_delay=0
MpiDefault=none
MaxArraySize={max_array_size}
JobRequeue=1
ReturnToService=2
KillWait=5
MinJobAge=60
NodeName={node} NodeAddr=127.0.0.1 NodeHostname={host} CPUs={cpus} RealMemory=1000 State=UNKNOWN
PartitionName={partition} Nodes={node} Default=YES MaxTime=60 State=UP
"""


def missing() -> str | None:
    """Return why no Slurm can be started here; None where one can."""
    absent = [name for name in DAEMONS if shutil.which(name, path=_path()) is None]
    if absent:
        return f"{', '.join(absent)} not installed (Debian: slurm-wlm, munge)"
    return None if os.geteuid() == 0 else "starting Slurm needs root"


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def _end_with_parent() -> None:
    """Have the kernel end this process when the one that started it is killed."""
    pr_set_pdeathsig = 1  # of sys/prctl.h
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class SlurmNode:
    """A Slurm of one node. cpus: of the node, which may be more than the machine has. Files lie in `folder`."""

    def __init__(self, folder: Path, cpus: int = 2, max_array_size: int = 1001) -> None:
        self.folder, self._processes = folder.absolute(), list[subprocess.Popen[bytes]]()
        self._values = {"cpus": cpus, "max_array_size": max_array_size}
        self.environment = {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": _path()}

    def start(self) -> None:
        """Start the daemons and wait until the node is idle. Raises RuntimeError with the end of a log."""
        for name in ("state", "spool", "munge"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self._start_munge()
        ports = {"controller_port": _free_port(), "node_port": _free_port()}
        (self.folder / "slurm.conf").write_text(
            CONFIG.format(
                folder=self.folder, node=NODE, partition=PARTITION, host=socket.gethostname(), **ports, **self._values
            )
        )
        self._start(["slurmctld", "-D", "-c"])
        self._wait(lambda: self.run("scontrol", "ping", check=False).stdout.count("UP") > 0, "slurmctld")
        self._start(["slurmd", "-D", "-N", NODE])
        self._wait(lambda: self.run("sinfo", "-h", "-o", "%T").stdout.strip() == "idle", "slurmd")

    def _start_munge(self) -> None:
        """Start munged as its own user, which it insists on, as on a folder that others cannot write."""
        munge = self.folder / "munge"
        (munge / "key").write_bytes(os.urandom(128))
        (munge / "key").chmod(0o400)
        for path in (munge, munge / "key"):
            shutil.chown(path, MUNGE_USER, MUNGE_USER)
        munge.chmod(0o711)
        options = [
            f"--{name}={munge / name.split('-')[0]}"
            for name in ("key-file", "socket", "pid-file", "log-file", "seed-file")
        ]
        self._start(["munged", "--foreground", "--force", "--num-threads=2", *options], user=MUNGE_USER)
        self._wait((munge / "socket").exists, "munge/log")

    def _start(self, command: list[str], user: str | None = None) -> None:
        log = open(self.folder / f"{command[0]}.out", "wb")  # noqa: SIM115 (kept by the process)
        program = shutil.which(command[0], path=_path()) or command[0]
        process = subprocess.Popen(
            [program, *command[1:]], env={**os.environ, **self.environment}, stdin=subprocess.DEVNULL, stdout=log,
            stderr=log, user=user, start_new_session=True, preexec_fn=_end_with_parent,
        )  # fmt: skip
        log.close()
        self._processes.append(process)

    def _wait(self, ready: Callable[[], bool], log: str) -> None:
        end = time.monotonic() + START_S
        while not ready():
            died = [p for p in self._processes if p.poll() is not None]
            if died or time.monotonic() > end:
                texts = [p.read_text(errors="replace")[-1500:] for p in self.folder.glob("*.out")]
                texts += [p.read_text(errors="replace")[-1500:] for p in (self.folder / f"{log}.log",) if p.exists()]
                raise RuntimeError("Slurm does not start:\n" + "\n".join(texts))
            time.sleep(0.1)

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command of Slurm."""
        return subprocess.run(
            command, env={**os.environ, **self.environment}, capture_output=True, text=True, check=check, timeout=60
        )

    def stop(self) -> None:
        """Cancel all jobs and end the daemons, the controller last but for munged, which the others need to end."""
        with contextlib.suppress(subprocess.SubprocessError, OSError):
            self.run("scancel", "--signal=KILL", "--full", f"--partition={PARTITION}", check=False)
            self.run("scancel", f"--partition={PARTITION}", check=False)
            self._wait(lambda: not self.run("squeue", "-h").stdout.strip(), "slurmctld")
        for process in reversed(self._processes):
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()

    def __enter__(self) -> "SlurmNode":
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


@contextlib.contextmanager
def _until_stopped(folder: Path) -> Iterator[SlurmNode]:
    with SlurmNode(folder) as node, contextlib.suppress(KeyboardInterrupt):
        yield node


if __name__ == "__main__":
    if reason := missing():
        sys.exit(f"error: {reason}")
    with _until_stopped(Path(sys.argv[1])) as started:
        print(f"export SLURM_CONF={started.environment['SLURM_CONF']}", flush=True)
        signal.pause()
