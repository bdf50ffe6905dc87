"""TensorBoard and trackio hold what was trained, by what their own readers find."""

import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmark.config.compose import load_config
from benchmark.runs.folder import RunFolder
from benchmark.runs.tracking import Tracking
from tests.benchmark.runs.test_tracking import ARGUMENTS

PATIENT = "tracker.finish_timeout=120"


def train_in_two_parts(tracking: Tracking, folder: RunFolder) -> None:
    """Record a run that is interrupted after its first epoch and resumed."""
    with pytest.raises(KeyboardInterrupt), tracking.run(**ARGUMENTS, folder=folder.path):
        folder.append_metrics({"epoch": 1, "loss": 2.5, "test_top1": 40.0})
        raise KeyboardInterrupt
    with tracking.run(**ARGUMENTS, folder=folder.path) as run:
        folder.append_metrics({"epoch": 2, "loss": 1.5, "test_top1": 50.0, "val_top1": None})
        run.on_epoch_end()
        run.summary({"top1_last": 50.0})


def files(folder: Path) -> list[Path]:
    """Write a table and a plot of red pixels."""
    (folder / "t.csv").write_text("method,mean\nkd,50.5\n")
    Image.fromarray(np.full((3, 4, 3), (255, 0, 0), np.uint8)).save(folder / "p.png")
    return [folder / "t.csv", folder / "p.png", folder / "t.tex"]


# ------------------------------------------------------------ TensorBoard


def events(folder: Path) -> Any:
    """Read the event files of a folder."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    accumulator = reader.EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator


def test_tensorboard_holds_each_epoch_once_and_the_hyperparameters(folder, tmp_path):
    plugin_data = pytest.importorskip("tensorboard.plugins.hparams.plugin_data_pb2")
    train_in_two_parts(Tracking(load_config(["tracker=tensorboard", PATIENT]).tracker, tmp_path), folder)
    content = events(folder.path / "tensorboard")
    scalars = {tag: [(e.step, e.value) for e in content.Scalars(tag)] for tag in content.Tags()["scalars"]}
    assert scalars.pop("final/top1_last") == [(0, 50.0)]
    assert scalars == {"loss": [(1, 2.5), (2, 1.5)], "test_top1": [(1, 40.0), (2, 50.0)]}
    start = plugin_data.HParamsPluginData.FromString(
        content.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    ).session_start_info
    assert {name: value.WhichOneof("kind") for name, value in start.hparams.items()} == {
        "method.name": "string_value", "method.temperature": "number_value", "seed": "number_value",
    }  # fmt: skip
    assert start.hparams["method.temperature"].number_value == 4.0


def test_tensorboard_holds_tables_and_plots(tmp_path):
    tracking = Tracking(load_config(["tracker=tensorboard", PATIENT]).tracker, tmp_path / "runs")
    tracking.publish(files(tmp_path), "report digits-quick", [], {})
    content = events(tmp_path / "runs" / "tensorboard" / "report_digits-quick")
    (image,) = content.Images("plots/p")
    assert (image.width, image.height) == (4, 3)
    (text,) = content.Tensors("tables/t/text_summary")
    assert text.tensor_proto.string_val == [b"| method | mean |\n| --- | --- |\n| kd | 50.5 |"]


# ------------------------------------------------------------ trackio


@pytest.fixture
def trackio_folder(tmp_path, monkeypatch) -> Path:
    """The folder of trackio's database."""
    pytest.importorskip("trackio")
    for name in ("TRACKIO_DIR", "TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "runs" / "trackio"


def rows(folder: Path, table: str) -> list[dict[str, Any]]:
    """Return the rows of a table of the one database, by insertion."""
    import orjson

    (path,) = folder.glob("*.db")
    with sqlite3.connect(path) as connection:
        connection.row_factory = sqlite3.Row
        records = [dict(row) for row in connection.execute(f"SELECT * FROM {table} ORDER BY rowid")]
    return [{k: orjson.loads(v) if k in ("metrics", "config") else v for k, v in row.items()} for row in records]


def test_trackio_holds_each_epoch_once_and_the_configuration(folder, trackio_folder, tmp_path):
    tracking = Tracking(load_config(["tracker=trackio", "tracker.project=proj", PATIENT]).tracker, tmp_path / "runs")
    train_in_two_parts(tracking, folder)
    assert [path.name for path in trackio_folder.glob("*.db")] == ["proj.db"]
    assert [(row["run_name"], row["step"], row["metrics"]) for row in rows(trackio_folder, "metrics")] == [
        ("pair kd seed 0 1a2b", 1, {"epoch": 1, "loss": 2.5, "test_top1": 40.0}),
        ("pair kd seed 0 1a2b", 2, {"epoch": 2, "loss": 1.5, "test_top1": 50.0, "val_top1": None}),
        ("pair kd seed 0 1a2b", 2, {"final/top1_last": 50.0}),
    ]
    (row,) = rows(trackio_folder, "configs")
    assert row["config"]["method.temperature"] == 4.0 and row["config"]["seed"] == 0


def test_trackio_holds_tables_and_plots(trackio_folder, tmp_path):
    tracking = Tracking(load_config(["tracker=trackio", PATIENT]).tracker, tmp_path / "runs")
    tracking.publish(files(tmp_path), "report", [], {})
    metrics = {k: v for row in rows(trackio_folder, "metrics") for k, v in row["metrics"].items()}
    assert metrics["tables/t"]["_value"] == [{"method": "kd", "mean": 50.5}]
    with Image.open(trackio_folder / "media" / metrics["plots/p"]["file_path"]) as image:
        assert image.convert("RGB").getpixel((0, 0)) == (255, 0, 0)
