"""Whatever W&B does (hang, drip, die, answer nonsense), training goes on and nothing of a run is lost.

The server is on loopback and W&B's own client talks to it. Limits that end a wait are short where the wait is the
fault, and long where the test waits for a result.
"""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmark.__main__ import main
from benchmark.commands.bench import train
from benchmark.config.compose import load_config
from benchmark.errors import UserError
from benchmark.runs.folder import RunFolder
from benchmark.runs.tracking import Tracking
from tests.benchmark.runs.loopback import API_KEY, FAULTS, Server, serving
from tests.benchmark.runs.test_tracking import ARGUMENTS, offline, track
from tests.helpers import plan_of, tracking_of

RETRY = "tracker.retry_timeout=120"
QUICK = ["tracker.init_timeout=1", "tracker.finish_timeout=1", RETRY]
PATIENT = ["tracker.init_timeout=60", "tracker.finish_timeout=120", RETRY]


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"the condition did not hold within {seconds} s"
        time.sleep(0.05)


def processes(*words: str) -> list[int]:
    """Return the running processes whose command line has all words."""
    ids = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if all(word.encode() in command for word in words):
            ids.append(int(path.parent.name))
    return ids


def parent_of(pid: int) -> int | None:
    """Return the id of a process's parent; None once the process has ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


def tracker_process() -> int:
    """Return the id of this process's tracker process."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    (pid,) = set(map(int, children)) & set(processes("benchmark.runs.trackers.worker"))
    return pid


def kill_service(wandb_folder: Path) -> None:
    """Kill the wandb service of this process's tracker once it records a run."""
    wait_for(lambda: list(wandb_folder.glob("*run-*/*.wandb")))
    services = processes("--pid", str(tracker_process()))
    # a child of the service has the same command line until it starts its own program
    (service,) = (pid for pid in services if parent_of(pid) not in services)
    os.kill(service, signal.SIGKILL)


@pytest.fixture
def logged_in(logged_out, monkeypatch) -> Iterator[Callable[[Server], None]]:
    """Log in to a server."""

    def login(server: Server) -> None:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", API_KEY)

    return login


def epochs(server: Server, folder: RunFolder) -> list[int]:
    """Return the epochs that a server has of a run."""
    return [row["epoch"] for row in server.history[json.loads((folder.path / "wandb.json").read_text())["id"]]]


# ------------------------------------------------------------ a server that works


def test_epochs_that_the_server_lacks_are_uploaded_once(logged_in, folder, tmp_path):
    with serving() as server:
        logged_in(server)
        tracking = Tracking(load_config(PATIENT).tracker, tmp_path)
        track(tracking, folder, [1, 2])
        for epoch in (3, 4):  # while the server was out of reach
            folder.append_metrics({"epoch": epoch, "loss": 1.0})
        track(tracking, folder, [5])
        assert epochs(server, folder) == [1, 2, 3, 4, 5]
    assert tracking.mode == "online" and offline(tmp_path) == []
    assert json.loads((folder.path / "wandb.json").read_text())["url"].startswith(server.url)


def test_a_run_whose_training_process_is_killed_is_recorded_to_its_last_epoch(logged_in, folder, tmp_path):
    with serving() as server:
        logged_in(server)
        tracking = Tracking(load_config(PATIENT).tracker, tmp_path)
        pid = os.fork()
        if pid == 0:
            with tracking.run(**ARGUMENTS, folder=folder.path):
                folder.append_metrics({"epoch": 1, "loss": 1.0})
                os._exit(9)  # as by kill -9
        os.waitpid(pid, 0)
        wait_for(lambda: any(server.history.values()))
        assert epochs(server, folder) == [1]


# ------------------------------------------------------------ a server that fails


@pytest.mark.parametrize("fault", FAULTS)
def test_a_run_is_recorded_offline_where_the_server_fails(fault, logged_in, folder, tmp_path, capfd):
    with serving(fault) as server:
        logged_in(server)
        tracking = Tracking(load_config(QUICK).tracker, tmp_path)
        with tracking.run(**ARGUMENTS, folder=folder.path) as run:
            folder.append_metrics({"epoch": 1, "loss": 1.0})
            assert server.has_failed.wait(120)
            run.on_epoch_end()
            folder.append_metrics({"epoch": 2, "loss": 1.0})
            run.on_epoch_end()
            run.summary({"top1_last": 50.0})
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("pair kd seed 0: W&B: ")
    assert line.endswith("; continuing offline, `make sync` uploads later")
    (content,) = offline(tmp_path)
    assert [row["epoch"] for row in content["history"]] == [1, 2]
    assert content["summary"]["top1_last"] == 50.0 and content["exit"] == 0
    assert tracking.mode == "offline"  # further runs do not try again


def test_a_server_that_drips_holds_the_exit_at_most_30_s():
    config = load_config([]).tracker
    assert config.finish_timeout + config.retry_timeout <= 30


@pytest.mark.parametrize(("jobs", "methods"), [(1, "kd"), (2, "ce,kd")])
def test_training_goes_on_where_the_server_fails(jobs, methods, logged_in, tiny, tmp_path, capfd):
    plan = plan_of([*tiny, *PATIENT, "tracker.mode=auto", f"methods={methods}", f"jobs={jobs}"])
    with serving("answers null") as server:
        logged_in(server)
        outcomes = train(plan, tracking_of(plan))
    assert [outcome.status for outcome in outcomes] == ["done"] * jobs
    errors = capfd.readouterr().err
    assert "Traceback" not in errors
    assert 1 <= errors.count("continuing offline") <= jobs  # later runs know
    recorded = offline(tmp_path / "runs")
    assert sorted(content["run"].job_type for content in recorded) == [*["student"] * jobs, "teacher"]
    assert all(len(content["history"]) == 2 for content in recorded)


# ------------------------------------------------------------ a client that dies


def test_a_run_survives_its_service_killed_offline(logged_out, folder, tmp_path, capfd):
    tracking = Tracking(load_config(["tracker.mode=offline", "tracker.finish_timeout=3", RETRY]).tracker, tmp_path)
    with tracking.run(**ARGUMENTS, folder=folder.path) as run:
        folder.append_metrics({"epoch": 1, "loss": 1.0})
        run.on_epoch_end()
        kill_service(tmp_path / "wandb")
        folder.append_metrics({"epoch": 2, "loss": 1.0})
        run.on_epoch_end()
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("pair kd seed 0: W&B: ") and "`make sync`" in line
    (content,) = offline(tmp_path)
    assert [row["epoch"] for row in content["history"]] == [1, 2] and content["exit"] == 0


def test_a_tracker_process_that_is_killed_is_replaced_at_the_next_epoch(logged_in, folder, tmp_path, capfd):
    with serving() as server:
        logged_in(server)
        tracking = Tracking(load_config(PATIENT).tracker, tmp_path)
        with tracking.run(**ARGUMENTS, folder=folder.path) as run:
            folder.append_metrics({"epoch": 1, "loss": 1.0})
            wait_for(lambda: list((tmp_path / "wandb").glob("run-*/*.wandb")))
            os.killpg(tracker_process(), signal.SIGKILL)
            wait_for(lambda: run.on_epoch_end() or tracking.mode == "offline")
            folder.append_metrics({"epoch": 2, "loss": 1.0})
    assert "its process ended with status -9; continuing offline" in capfd.readouterr().err
    (content,) = offline(tmp_path)
    assert [row["epoch"] for row in content["history"]] == [1, 2]


def test_what_cannot_be_recorded_is_kept_and_synced_later(logged_in, folder, tmp_path, monkeypatch, capfd):
    with serving() as server:
        logged_in(server)
        tracking = Tracking(load_config(PATIENT).tracker, tmp_path)
        monkeypatch.setenv("WANDB_BASE_URL", "no address")  # which wandb refuses, offline too
        track(tracking, folder, [1, 2])
        first, second = capfd.readouterr().err.splitlines()
        assert "continuing offline" in first and "`make sync` records and uploads it later" in second
        assert (folder.path / "tracking.json").is_file() and offline(tmp_path) == []

        assert main(["sync", f"runs={tmp_path}"]) == 1 and (folder.path / "tracking.json").is_file()
        logged_in(server)
        assert main(["sync", f"runs={tmp_path}"]) == 0, capfd.readouterr()
        assert not (folder.path / "tracking.json").exists()
        assert epochs(server, folder) == [1, 2]
        assert main(["sync", f"runs={tmp_path}", "run=x"]) == 2
    assert main(["sync", f"runs={tmp_path / 'none'}"]) == 2


# ------------------------------------------------------------ bad settings


@pytest.mark.parametrize(
    ("name", "value"), [("WANDB_BASE_URL", "foo"), ("WANDB_INIT_TIMEOUT", "abc"), ("WANDB_PROJECT", "a/b")]
)
def test_bad_variables_are_refused_in_one_line(name, value, logged_out, tmp_path, monkeypatch):
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=rf"W&B's settings are not valid \(.*{name}.* set\): .*tracker=none"):
        Tracking(load_config([]).tracker, tmp_path)


def test_a_damaged_netrc_is_said_and_counts_as_no_login(logged_out, tmp_path, monkeypatch, capfd):
    (tmp_path / "netrc").write_bytes(b"machine \xff\xfe api.wandb.ai logan")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert Tracking(load_config([]).tracker, tmp_path).mode == "offline"
    assert "netrc cannot be read" in capfd.readouterr().err
