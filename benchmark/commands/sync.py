"""`sync`: record the runs whose tracking failed, and upload the W&B runs that were recorded offline."""

import importlib.util
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmark.config.command_options import load_sync
from benchmark.errors import UserError
from benchmark.runs.trackers import wandb
from benchmark.runs.tracking import PENDING_FILE, record_pending


def run(words: Sequence[str]) -> int:
    """Record and upload; return the exit status: 1 where something remains."""
    runs = Path(load_sync(words).runs).expanduser()
    pending = sorted(runs.glob(f"*/*/*/*/*/{PENDING_FILE}"))
    if not pending and not (runs / "wandb").is_dir():
        raise UserError(f"nothing to upload in {runs}: give the folder of the runs as runs=…")
    failed = False
    for path in pending:
        reason = record_pending(path)
        failed |= reason is not None
        print(f"{path.parent}: {'recorded' if reason is None else f'not recorded: {reason}'}", flush=True)
    if (runs / "wandb").is_dir():
        failed |= _upload(runs) != 0
    return int(failed)


def _upload(runs: Path) -> int:
    """Upload the offline runs of W&B below a folder; return the status of `wandb sync`."""
    if importlib.util.find_spec("wandb") is None:
        raise UserError("wandb is not installed: pip install wandb")
    command = [sys.executable, "-m", "wandb", "sync", "--yes"]
    return subprocess.run(command, cwd=runs, env=wandb.environment(), check=False).returncode
