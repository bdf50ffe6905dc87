"""TensorBoard: event files in each run's folder, so that `tensorboard --logdir <runs>` shows all runs."""

import csv
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmark.runs.folder import file_name
from benchmark.runs.trackers.contract import Ending, Request, flat, numbers

FOLDER = "tensorboard"  # in a run's folder; of tables and plots, in that of all runs


class TensorBoardTracker:
    """Writes scalars by epoch, and the run's configuration and final values as hyperparameters."""

    def __init__(self, request: Request) -> None:
        from torch.utils.tensorboard import SummaryWriter

        if request.run_folder:
            folder = Path(request.run_folder) / FOLDER
        else:
            folder = Path(request.root) / FOLDER / file_name(request.name)
        if folder.exists():
            shutil.rmtree(folder)  # what a resumed run recorded before is recorded again
        self._writer, self._config = SummaryWriter(str(folder)), request.config

    def log(self, line: Mapping[str, Any]) -> None:
        """Record an epoch."""
        for name, value in numbers(line).items():
            if name != "epoch":
                self._writer.add_scalar(name, value, line["epoch"])
        self._writer.flush()

    def publish(self, files: Sequence[Path]) -> None:
        """Record tables and plots."""
        import numpy as np
        from PIL import Image

        for path in files:
            if path.suffix == ".csv":
                with open(path, newline="") as f:
                    head, *rows = csv.reader(f)
                lines = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]
                self._writer.add_text(f"tables/{path.stem}", "\n".join(lines))
            elif path.suffix == ".png":
                pixels = np.asarray(Image.open(path).convert("RGB"))
                self._writer.add_image(f"plots/{path.stem}", pixels, dataformats="HWC")

    def finish(self, ending: Ending) -> None:
        """Record the configuration with the final values, and write everything."""
        plain = {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in flat(self._config).items()}
        values = {f"final/{k}": v for k, v in numbers(ending.summary).items()}
        self._writer.add_hparams(plain, values, run_name=".")
        self._writer.close()
