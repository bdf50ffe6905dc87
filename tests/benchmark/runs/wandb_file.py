"""Reader of the records of an offline W&B run, independent of wandb's reader (LevelDB log framing)."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK = 32768


def records(folder: Path) -> Iterator[Any]:
    """Yield the protobuf records of the one .wandb file in `folder`."""
    from wandb.proto import wandb_internal_pb2

    (path,) = folder.glob("*.wandb")
    data = path.read_bytes()
    assert data[:4] == b":W&B"
    at, parts = 7, b""
    while at + 7 <= len(data):
        left = BLOCK - at % BLOCK
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a complete record, or its last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def _values(items: Any) -> dict[str, Any]:
    return {(i.key or ".".join(i.nested_key)): json.loads(i.value_json) for i in items}


def contents(folder: Path) -> dict[str, Any]:
    """Return an offline run's record, history rows, summary and exit code."""
    content: dict[str, Any] = {"history": [], "summary": {}, "exit": None, "run": None}
    for record in records(folder):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            content["run"] = record.run
        elif kind == "history":
            content["history"].append(_values(record.history.item))
        elif kind == "summary":
            content["summary"] |= _values(record.summary.update)
        elif kind == "exit":
            content["exit"] = record.exit.exit_code
    return content
