"""trackio: a local database, `<runs>/trackio/` unless TRACKIO_DIR names another folder."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark.runs.trackers.contract import Ending, Request, flat

FOLDER = "trackio"


class TrackioTracker:
    """Records in a run of trackio's, named after the run and its identity."""

    def __init__(self, request: Request) -> None:
        os.environ.setdefault("TRACKIO_DIR", str(Path(request.root).absolute() / FOLDER))
        import trackio

        self._name = " ".join(filter(None, [request.name, request.group.rsplit("/", 1)[-1]]))
        with contextlib.suppress(ValueError):  # there is no such project yet
            for run in trackio.Api().runs(request.project):
                if run.name == self._name:
                    run.delete()  # what a resumed run recorded before is recorded again
        self._run: Any = trackio.init(
            request.project, name=self._name, group=request.group, config=flat(request.config), embed=False,
            auto_log_cpu=False, auto_log_gpu=False,
        )  # fmt: skip
        self._request, self._step = request, 0

    def log(self, line: Mapping[str, Any]) -> None:
        """Record an epoch."""
        self._step = self._request.step(line["epoch"])
        self._run.log(dict(line), step=self._step)

    def publish(self, files: Sequence[Path]) -> None:
        """Record tables and plots."""
        import pandas as pd
        import trackio

        for path in files:
            if path.suffix == ".csv":
                self._run.log({f"tables/{path.stem}": trackio.Table(dataframe=pd.read_csv(path))}, step=0)
            elif path.suffix == ".png":
                self._run.log({f"plots/{path.stem}": trackio.Image(str(path))}, step=0)

    def finish(self, ending: Ending) -> None:
        """Record the final values at the last epoch, and write everything."""
        if ending.summary:
            self._run.log({f"final/{k}": v for k, v in ending.summary.items()}, step=self._step)
        self._run.finish()
