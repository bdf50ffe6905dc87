"""The model card: what an exported network is, how it was trained and how it is loaded, as Markdown. No torch here."""

import json
from collections.abc import Mapping
from typing import Any

from benchmark.runs.folder import RunFolder
from benchmark.tables.markdown import grid
from benchmark.tables.model import TEXT, Cell, Column, Line, Table

USE = """\
## Use

```python
import torch
from benchmark.export import load
model = load("{name}")
logits = model(torch.rand(1, 3, {size}, {size}))  # RGB images from 0 to 1
print(logits.softmax(1))
```

```python
import numpy, onnxruntime
session = onnxruntime.InferenceSession("{name}/model.onnx")
images = numpy.random.rand(1, 3, {size}, {size}).astype("float32")  # RGB images from 0 to 1
(logits,) = session.run(None, {{"images": images}})
print(logits.argmax(1))
```
"""


def model_card(name: str, folder: RunFolder, description: Mapping[str, Any]) -> str:
    """Return the card of an exported run. name: of the folder that it is exported to."""
    record, config = folder.record, folder.config
    title = record.title or record.method or "no method"
    subject = f"{record.student or record.network}, {title}" + (f", taught by {record.teacher}" if record.pair else "")
    tags = ["image-classification", "knowledge-distillation", record.method]
    head = ["---", "library_name: pytorch", f"tags: {json.dumps([tag for tag in tags if tag])}", "---", ""]
    text = f"# {subject}, on {record.dataset}\n\n{description['size']} × {description['size']} pixels, "
    text += f"{description['classes']} classes; their names are in `config.json`. Normalization is part of the model.\n"
    recipe = {f"recipe: {k}": v for k, v in config.recipe.items()}
    options = {f"method: {k}": v for k, v in config.method.items() if k != "name"}
    tables = _table("Result", _results(folder)), _table("Training", {**recipe, **options})
    return "\n".join([*head, text, *tables, USE.format(name=name, size=description["size"])])


def _results(folder: RunFolder) -> dict[str, Any]:
    """The accuracy that may be shown, and what identifies the run."""
    record = folder.record
    sealed = record.is_sealed  # the test set, since a validation split chooses between such runs
    return {
        "accuracy after the last epoch": _percent(record.val_top1_last if sealed else record.top1_last)
        + (" (validation split)" if sealed else " (test set)"),
        "teacher's accuracy": None if sealed else _percent(record.teacher_top1),
        "pair": record.pair,
        "method": record.method,
        "seed": record.seed,
        "profile": record.profile,
        "run identity": record.identity,
        "precision in training": record.precision,
        "parameters at inference": record.inference_parameters,
        "SHA-256 of the trained weights": record.sha256,
        "SHA-256 of the teacher's weights": record.teacher_sha256,
        "commit": record.commit,
    }


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} %"


def _table(title: str, values: Mapping[str, Any]) -> str:
    lines = [Line([Cell(k), Cell(str(v))]) for k, v in values.items() if v not in (None, "")]
    table = Table(title, (Column("key", TEXT), Column("value", TEXT)), [lines])
    return f"## {title}\n\n{grid(table, aligned=False)}\n"
