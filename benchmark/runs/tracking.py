"""Tracking with Weights & Biases: one W&B run per trained network, always finished, never a reason for a run to fail.

wandb is imported only when tracking is on. metrics.jsonl is written in any case (`benchmark.runs.folder`).
"""

import contextlib
import csv
import importlib.util
import netrc
import os
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast
from urllib.parse import urlsplit

from benchmark.config.schema import TrackerConfig
from benchmark.errors import UserError
from benchmark.runs import folder as store

WANDB_MODES = ("online", "offline", "disabled")
FORBIDDEN_IN_PROJECT = "/\\#?%:"  # characters that W&B rejects in the name of a project
PUBLIC_HOST = "api.wandb.ai"
FINISH_TIMEOUT_S = 60  # so that a lost server does not delay the end of a run


class Tracked(Protocol):
    """A run that is being tracked."""

    def log(self, line: Mapping[str, Any]) -> None:
        """Record one epoch; `line` holds the key `epoch`."""
        ...

    def summary(self, values: Mapping[str, Any]) -> None:
        """Record final values."""
        ...


class _Untracked:
    """Ignores everything, where tracking is off."""

    def log(self, line: Mapping[str, Any]) -> None:
        """Do nothing."""

    def summary(self, values: Mapping[str, Any]) -> None:
        """Do nothing."""


class _WandbRun:
    """Records in a W&B run. first_epoch: below 0 where there is an initialization stage."""

    def __init__(self, run: Any, first_epoch: int) -> None:
        self._run, self._offset = run, max(0, -first_epoch)
        run.define_metric("epoch")
        run.define_metric("*", step_metric="epoch")

    def log(self, line: Mapping[str, Any]) -> None:
        """Record one epoch."""
        self._run.log(dict(line), step=line["epoch"] + self._offset)  # W&B drops lines with a negative step

    def summary(self, values: Mapping[str, Any]) -> None:
        """Record final values."""
        self._run.summary.update(dict(values))


class Tracking:
    """Opens tracked runs. Where the server cannot be reached, it reports so once and continues offline.

    folder: wandb keeps its files in `<folder>/wandb/`. Raises UserError where the configured mode cannot work.
    """

    def __init__(self, config: TrackerConfig, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.mode = config.mode
        if self.mode == "off":
            return
        if forbidden := sorted(set(config.project) & set(FORBIDDEN_IN_PROJECT)):
            raise UserError(f"tracker.project is {config.project!r}: W&B allows no {' '.join(forbidden)} in a name")
        if importlib.util.find_spec("wandb") is None:
            raise UserError("wandb is not installed: pip install wandb, or set tracker.mode=off")
        if self.mode == "auto":
            self.mode = os.environ.get("WANDB_MODE") or ("online" if self._logged_in() else "offline")
            if self.mode not in WANDB_MODES:
                raise UserError(f"WANDB_MODE is {self.mode!r}: it must be one of {', '.join(WANDB_MODES)}")
        elif self.mode == "online" and not self._logged_in():
            raise UserError("tracker.mode=online needs a login to W&B: run `wandb login`, or use tracker.mode=offline")

    def _logged_in(self) -> bool:
        """Return whether wandb would find credentials without asking the user for a key."""
        import wandb

        settings = wandb.setup().settings
        if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE") or settings.api_key:
            return True
        hosts = [urlsplit(settings.base_url).netloc]
        if "WANDB_BASE_URL" not in os.environ:
            hosts.append(PUBLIC_HOST)  # the name by which older versions store a login to the public server
        path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
        try:
            logins = netrc.netrc(path)
        except (OSError, netrc.NetrcParseError):
            return False
        return any(logins.authenticators(host) for host in hosts)

    @contextlib.contextmanager
    def run(
        self, *, name: str, group: str, job_type: str, tags: Sequence[str], config: Mapping[str, Any],
        id_file: Path | None = None, first_epoch: int = 0,
    ) -> Iterator[Tracked]:  # fmt: skip
        """Open a tracked run, and finish it at the end of the context.

        id_file: stores the id of the W&B run, which a resumed run continues. first_epoch: below 0 where there is an
        initialization stage.
        """
        if self.mode == "off":
            yield _Untracked()
            return
        entry = (store.read_json(id_file) if id_file else None) or {"id": uuid.uuid4().hex[:12]}
        arguments = {
            "id": entry["id"], "name": name, "group": group, "job_type": job_type, "tags": list(tags),
            "config": dict(config), "project": self.config.project, "entity": self.config.entity,
            "dir": str(self.folder), "resume": "allow",
        }  # fmt: skip
        run = self._open(arguments)
        if id_file:
            url = run.url if self.mode == "online" else entry.get("url")
            store.write_json(id_file, {**entry, "id": run.id, "url": url})  # in a sweep, the agent chooses the id
        try:
            yield _WandbRun(run, first_epoch)
        except BaseException:
            run.finish(exit_code=1)
            raise
        run.finish()

    def _open(self, arguments: dict[str, Any]) -> Any:
        import wandb

        self.folder.mkdir(parents=True, exist_ok=True)
        # wandb's console output would break up the progress
        settings = wandb.Settings(
            silent=True, console="off", init_timeout=self.config.init_timeout, finish_timeout=FINISH_TIMEOUT_S,
            x_disable_viewer=True,
        )  # fmt: skip
        if self.mode == "online":
            try:
                return wandb.init(**arguments, mode="online", settings=settings)
            except wandb.Error as e:
                self.mode = "offline"
                wandb.teardown()  # otherwise its service keeps the run's id
                reason = str(e).splitlines()[0]
                print(
                    f"W&B cannot be reached ({reason}): continuing offline; `make sync` uploads later", file=sys.stderr
                )
        arguments.pop("resume")  # has no effect offline: `wandb sync` joins the parts of a run by its id
        return wandb.init(**arguments, mode=cast(Any, self.mode), settings=settings)

    def publish(self, files: Sequence[Path], name: str, tags: Sequence[str], config: Mapping[str, Any]) -> None:
        """Log tables (.csv) and plots (.png) as a separate W&B run."""
        if self.mode == "off":
            return
        import wandb

        media: dict[str, Any] = {"epoch": 0}
        for path in files:
            if path.suffix == ".csv":
                with open(path, newline="") as f:
                    head, *rows = csv.reader(f)
                media[f"tables/{path.stem}"] = wandb.Table(columns=list[Any](head), data=list[Any](rows))
            elif path.suffix == ".png":
                media[f"plots/{path.stem}"] = wandb.Image(str(path))
        with self.run(name=name, group="reports", job_type="report", tags=tags, config=config) as tracked:
            tracked.log(media)
