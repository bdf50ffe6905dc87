"""What a tracker is asked to record, and what it can do. No torch here."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self


@dataclass(frozen=True)
class Request:
    """A run to record, or tables and plots. Its values are plain: it is sent to another process as JSON."""

    tracker: str  # wandb, tensorboard or trackio
    mode: str  # of W&B: online or offline
    root: str  # folder of all runs, below which trackers keep their files
    name: str
    group: str  # shared by the seeds of one configuration
    job_type: str  # student, teacher or report
    tags: list[str]
    config: dict[str, Any]
    project: str
    entity: str | None
    init_timeout: float  # seconds that W&B's server may take to answer
    finish_timeout: float  # seconds that the process may go on after the end of the run
    retry_timeout: float  # likewise of the second process, after the first one failed
    run_folder: str | None = None  # of the run; None for tables and plots
    id: str = ""  # of the W&B run
    first_epoch: int = 1  # below 1 where there is an initialization stage
    trainer_pid: int = 0  # of the process that trains, whose use of the machine W&B records
    files: list[str] = field(default_factory=list)  # tables (.csv) and plots (.png)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Return the request in parsed JSON. Raises TypeError where it is not one."""
        return cls(**content)

    def to_json(self) -> dict[str, Any]:
        """Return the request as plain values."""
        return dataclasses.asdict(self)

    def step(self, epoch: int) -> int:
        """Return the step of an epoch: steps are never negative, epochs of an initialization stage may be."""
        return epoch + max(0, -self.first_epoch)


@dataclass(frozen=True)
class Ending:
    """How a recorded run ended. summary: final values by name; failed: an error or an interruption ended it."""

    summary: dict[str, Any] = field(default_factory=dict)
    failed: bool = True  # also where the training process ended without a word

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Return the ending in parsed JSON. Raises TypeError where it is not one."""
        return cls(**content)

    def to_json(self) -> dict[str, Any]:
        """Return the ending as plain values."""
        return dataclasses.asdict(self)


class Tracker(Protocol):
    """Records one run. Built from a `Request`; any method may raise anything, or hang."""

    def log(self, line: Mapping[str, Any]) -> None:
        """Record an epoch: a line of metrics.jsonl."""
        ...

    def publish(self, files: Sequence[Path]) -> None:
        """Record tables (.csv) and plots (.png)."""
        ...

    def finish(self, ending: Ending) -> None:
        """Record how the run ended, and return when everything is written or sent."""
        ...


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of nested mappings by dotted name."""
    values: dict[str, Any] = {}
    for key, value in tree.items():
        values |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return values


def numbers(line: Mapping[str, Any]) -> dict[str, float]:
    """Return the values that are numbers."""
    return {k: v for k, v in line.items() if isinstance(v, int | float) and not isinstance(v, bool)}
