"""Linear probes beside the run folders of `Tree`, in the documented format, without the code that writes them."""

import json
from pathlib import Path
from typing import Any

import yaml

PROTOCOL = {
    "kind": "linear", "epochs": 120, "batch_size": 64, "lr": 0.05, "momentum": 0.9, "weight_decay": 0.0005,
    "milestones": [30.0, 60.0, 90.0], "gamma": 0.1, "init_std": 0.01, "probe_seed": 0,
}  # fmt: skip


def write_probe(
    run: Path, target: str, top1: float, identity: str = "abcdef012345", *, status: str = "done",
    protocol: dict[str, Any] | None = None, changes: dict[str, Any] | None = None,
) -> Path:  # fmt: skip
    """Write a probe of a run; return its folder. changes: fields of its result."""
    folder = run / "transfer" / target / identity
    folder.mkdir(parents=True)
    recipe = PROTOCOL | (protocol or {})
    dataset = {"name": target, "size": 32, "padding": 4, "flip": True, "fingerprint": "e" * 64}
    (folder / "config.yaml").write_text(yaml.safe_dump({"probe": recipe, "dataset": dataset}))
    (folder / "status.json").write_text(json.dumps({"status": status, "reason": ""}))
    result = {
        "status": "done", "target": target, "source": "cifar100", "identity": identity, "epochs": recipe["epochs"],
        "top1_last": top1, "top5_last": min(top1 + 20, 100), "student_sha256": weights(run), "features": 128,
        "views": 424000, "features_bytes": 217088000, "features_s": 60.0, "wall_s": 75.0,
    }  # fmt: skip
    (folder / "result.json").write_text(json.dumps(result | (changes or {})))
    return folder


def weights(run: Path) -> str | None:
    """Return the content hash of a run's weights, as its result has it."""
    return json.loads((run / "result.json").read_text()).get("sha256")
