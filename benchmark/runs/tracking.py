"""Weights & Biases: one run per trained network, always finished, never in the way of a training.

wandb is imported only when tracking is on. metrics.jsonl is written beside it in any case (`benchmark.runs.folder`).
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
from typing import Any, Protocol
from urllib.parse import urlsplit

from benchmark.config.schema import TrackerConfig
from benchmark.errors import UserError
from benchmark.runs import folder as store

WANDB_MODES = ("online", "offline", "disabled")
NOT_IN_PROJECT = "/\\#?%:"  # characters that W&B refuses in a project's name


class Tracked(Protocol):
    """One run being tracked."""

    def log(self, line: Mapping[str, Any]) -> None:
        """Record one epoch; `line` holds the key `epoch`."""

    def summary(self, values: Mapping[str, Any]) -> None:
        """Record final values."""


class _Off:
    def log(self, line: Mapping[str, Any]) -> None:
        """Nothing is tracked."""

    def summary(self, values: Mapping[str, Any]) -> None:
        """Nothing is tracked."""


class _Wandb:
    def __init__(self, run: Any, first: int) -> None:
        self._run, self._offset = run, max(0, -first)
        run.define_metric("epoch")
        run.define_metric("*", step_metric="epoch")

    def log(self, line: Mapping[str, Any]) -> None:
        self._run.log(dict(line), step=line["epoch"] + self._offset)  # W&B drops what has a negative step

    def summary(self, values: Mapping[str, Any]) -> None:
        self._run.summary.update(dict(values))


class Tracking:
    """Opens tracked runs by one configuration; goes on offline, and says so once, when the server is out of reach.

    folder: where wandb keeps its files, `<folder>/wandb/`. Raises UserError where the mode cannot work here.
    """

    def __init__(self, config: TrackerConfig, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.mode = config.mode
        if self.mode == "off":
            return
        if bad := sorted(set(config.project) & set(NOT_IN_PROJECT)):
            raise UserError(f"tracker.project is {config.project!r}: W&B allows no {' '.join(bad)} in a name")
        if importlib.util.find_spec("wandb") is None:
            raise UserError("wandb is not installed: pip install wandb, or set tracker.mode=off")
        if self.mode == "auto":
            self.mode = os.environ.get("WANDB_MODE") or ("online" if self._logged_in() else "offline")
            if self.mode not in WANDB_MODES:
                raise UserError(f"WANDB_MODE is {self.mode!r}: it must be one of {', '.join(WANDB_MODES)}")
        elif self.mode == "online" and not self._logged_in():
            raise UserError("tracker.mode=online, but no login to W&B: run `wandb login`, or use tracker.mode=offline")

    def _logged_in(self) -> bool:
        """True where W&B would find an API key without asking for one."""
        import wandb

        settings = wandb.setup().settings
        if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE") or settings.api_key:
            return True
        hosts = [urlsplit(settings.base_url).netloc]
        if "WANDB_BASE_URL" not in os.environ:
            hosts.append("api.wandb.ai")  # the public server under the name that logins of older versions are kept by
        path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
        try:
            known = netrc.netrc(path)
        except (OSError, netrc.NetrcParseError):
            return False
        return any(known.authenticators(host) for host in hosts)

    @contextlib.contextmanager
    def run(
        self, *, name: str, group: str, job_type: str, tags: Sequence[str], config: Mapping[str, Any],
        ids: Path | None = None, first: int = 0,
    ) -> Iterator[Tracked]:  # fmt: skip
        """A tracked run. Its W&B id is kept in the file `ids`, so that a resumed run goes on in the same W&B run.

        first: the first epoch, which is below 0 where there is a first stage.
        """
        if self.mode == "off":
            yield _Off()
            return
        known = (store.read_json(ids) if ids else None) or {"id": uuid.uuid4().hex[:12]}
        arguments = {
            "id": known["id"], "name": name, "group": group, "job_type": job_type, "tags": list(tags),
            "config": dict(config), "project": self.config.project, "entity": self.config.entity,
            "dir": str(self.folder), "resume": "allow",
        }  # fmt: skip
        run = self._open(arguments)
        if ids:
            url = run.url if self.mode == "online" else known.get("url")
            store.write_json(ids, {**known, "id": run.id, "url": url})  # in a sweep the id is the agent's, not ours
        try:
            yield _Wandb(run, first)
        except BaseException:
            run.finish(exit_code=1)
            raise
        run.finish()

    def _open(self, arguments: dict[str, Any]) -> Any:
        import wandb

        self.folder.mkdir(parents=True, exist_ok=True)
        # W&B's own console output would break up the progress; finish_timeout keeps a lost server from holding it up
        settings = wandb.Settings(
            silent=True, console="off", init_timeout=self.config.init_timeout, finish_timeout=60, x_disable_viewer=True
        )
        if self.mode == "online":
            try:
                return wandb.init(**arguments, mode="online", settings=settings)
            except wandb.errors.Error as e:
                self.mode = "offline"
                wandb.teardown()  # its service still holds the run's id
                reason = str(e).splitlines()[0]
                print(f"W&B cannot be reached ({reason}): going on offline; `make sync` uploads later", file=sys.stderr)
        arguments.pop("resume")  # means nothing offline: the id alone joins the parts when they are synced
        return wandb.init(**arguments, mode=self.mode, settings=settings)

    def publish(self, files: Sequence[Path], name: str, tags: Sequence[str], config: Mapping[str, Any]) -> None:
        """Log tables (.csv) and plots (.png) as a W&B run of their own."""
        if self.mode == "off":
            return
        import wandb

        media: dict[str, Any] = {"epoch": 0}
        for path in files:
            if path.suffix == ".csv":
                with open(path, newline="") as f:
                    head, *rows = csv.reader(f)
                media[f"tables/{path.stem}"] = wandb.Table(columns=head, data=rows)
            elif path.suffix == ".png":
                media[f"plots/{path.stem}"] = wandb.Image(str(path))
        with self.run(name=name, group="reports", job_type="report", tags=tags, config=config) as tracked:
            tracked.log(media)
