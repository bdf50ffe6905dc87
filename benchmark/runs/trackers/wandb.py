"""Weights & Biases: one W&B run per trained network, which a resumed training continues."""

import csv
import json
import netrc
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from benchmark.config.schema import TrackerConfig
from benchmark.errors import UserError
from benchmark.runs import folder as store
from benchmark.runs.trackers.contract import Ending, Request

ID_FILE = "wandb.json"  # in a run's folder: id and address of its W&B run
WANDB_MODES = ("online", "offline", "disabled")
FORBIDDEN_IN_PROJECT = "/\\#?%:"  # characters that W&B rejects in the name of a project
LONGEST_TAG = 64  # characters; W&B rejects longer ones, and pairs of networks of timm can be longer
PUBLIC_HOST = "api.wandb.ai"
CHECK_S = 60.0  # for the answer whether there is a login


class WandbTracker:
    """Records in a W&B run: online, from the first epoch that the server lacks; offline, everything."""

    def __init__(self, request: Request) -> None:
        import wandb

        Path(request.root).mkdir(parents=True, exist_ok=True)
        settings = wandb.Settings(
            silent=True, console="off", init_timeout=request.init_timeout, x_disable_viewer=True,
            x_stats_pid=request.trainer_pid,
        )  # fmt: skip
        self._run: Any = wandb.init(
            id=request.id, name=request.name, group=request.group, job_type=request.job_type,
            tags=[tag[:LONGEST_TAG] for tag in request.tags], config=request.config, project=request.project,
            entity=request.entity, dir=request.root, mode=cast(Any, request.mode),
            resume="allow" if request.mode == "online" else None, settings=settings,
        )  # fmt: skip
        self._request, self._first_step = request, self._run.step  # 0, or the step after the server's last one
        if request.run_folder:
            path = Path(request.run_folder) / ID_FILE
            entry = store.read_json(path) or {}
            url = self._run.url if request.mode == "online" else entry.get("url")
            store.write_json(path, {**entry, "id": self._run.id, "url": url})  # in a sweep, the agent chooses the id
        self._run.define_metric("epoch")
        self._run.define_metric("*", step_metric="epoch")

    def log(self, line: Mapping[str, Any]) -> None:
        """Record an epoch."""
        if (step := self._request.step(line["epoch"])) >= self._first_step:
            self._run.log(dict(line), step=step, commit=True)  # otherwise it waits for the next epoch

    def publish(self, files: Sequence[Path]) -> None:
        """Record tables and plots."""
        import wandb

        media: dict[str, Any] = {}
        for path in files:
            if path.suffix == ".csv":
                with open(path, newline="") as f:
                    head, *rows = csv.reader(f)
                media[f"tables/{path.stem}"] = wandb.Table(columns=list[Any](head), data=list[Any](rows))
            elif path.suffix == ".png":
                media[f"plots/{path.stem}"] = wandb.Image(str(path))
        if media:
            self._run.log({"epoch": 0, **media})

    def finish(self, ending: Ending) -> None:
        """Send or write the rest. An offline run replaces its earlier parts: it has all of their epochs."""
        import wandb

        self._run.summary.update(ending.summary)
        folder = Path(self._run.dir).parent
        self._run.finish(exit_code=int(ending.failed))
        wandb.teardown()
        if self._request.mode == "offline":
            for part in folder.parent.glob(f"offline-run-*-{self._run.id}"):
                if part.name != folder.name:
                    shutil.rmtree(part, ignore_errors=True)


def check_mode(config: TrackerConfig) -> str:
    """Return how W&B is used: online, offline or off. Raises UserError where the configured mode cannot work."""
    if forbidden := sorted(set(config.project) & set(FORBIDDEN_IN_PROJECT)):
        raise UserError(f"tracker.project is {config.project!r}: W&B allows no {' '.join(forbidden)} in a name")
    mode = os.environ.get("WANDB_MODE") or "" if config.mode == "auto" else config.mode
    if mode not in ("", *WANDB_MODES):
        raise UserError(f"WANDB_MODE is {mode!r}: it must be one of {', '.join(WANDB_MODES)}")
    if mode == "disabled":
        return "off"
    logged_in = _is_logged_in()
    if config.mode == "online" and not logged_in:
        raise UserError("tracker.mode=online needs a login to W&B: run `wandb login`, or use tracker.mode=offline")
    return mode or ("online" if logged_in else "offline")


def _is_logged_in() -> bool:
    """Return whether wandb would find credentials without asking the user for a key.

    Another process asks wandb, which starts a service that must not belong to the process that trains. Raises UserError
    where W&B's settings are not valid.
    """
    try:
        with temporary_folder() as folder:
            output = subprocess.run(
                [sys.executable, "-m", __name__], env=environment(folder), stdin=subprocess.DEVNULL,
                capture_output=True, timeout=CHECK_S, check=True,
            ).stdout  # fmt: skip
        answer = json.loads(output.splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as e:
        print(f"W&B does not say whether you are logged in ({e}): taken for no", file=sys.stderr)
        return False
    if answer["problem"]:
        names = sorted(name for name in os.environ if name.startswith("WANDB_"))
        origin = f" ({', '.join(names)} set)" if names else ""
        reason = answer["problem"]
        raise UserError(f"W&B's settings are not valid{origin}: {reason}; correct them, or use tracker=none")
    if answer["warning"]:
        print(f"W&B: {answer['warning']}", file=sys.stderr)
    return answer["logged_in"]


def temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """Return a new folder for the temporary files of a process that uses wandb, which leaves them behind."""
    return tempfile.TemporaryDirectory(prefix="kd-", ignore_cleanup_errors=True)


def environment(temporary_files: str | None = None) -> dict[str, str]:
    """Return the variables for a process that uses wandb, which may be given a folder for temporary files.

    A service shared with other processes ends with them, and refuses a run that it knows.
    """
    variables = {k: v for k, v in os.environ.items() if k != "WANDB_SERVICE"}
    return variables if temporary_files is None else {**variables, "TMPDIR": temporary_files}


def _answer() -> dict[str, Any]:
    """Return whether there are credentials, in a process of its own."""
    import wandb

    answer = {"logged_in": False, "problem": "", "warning": ""}
    try:
        settings = wandb.setup().settings
    except Exception as e:
        lines = [line.strip() for line in str(e).splitlines() if line.strip() and "further information" not in line]
        return {**answer, "problem": ": ".join(lines[-2:])}
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE") or settings.api_key:
        return {**answer, "logged_in": True}
    hosts = [urlsplit(settings.base_url).netloc]
    if "WANDB_BASE_URL" not in os.environ:
        hosts.append(PUBLIC_HOST)  # the name by which older versions store a login to the public server
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        logins = netrc.netrc(path)
        return {**answer, "logged_in": any(logins.authenticators(host) for host in hosts)}
    except FileNotFoundError:
        return answer
    except (OSError, ValueError, netrc.NetrcParseError) as e:
        return {**answer, "warning": f"the logins in {path} cannot be read ({e}): taken for none"}


if __name__ == "__main__":
    print(json.dumps(_answer()), flush=True)
    os._exit(0)  # wandb's service ends with this process
