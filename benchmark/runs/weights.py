"""Files of torch.save that runs keep: written atomically, checked on reading, identified by their content."""

import contextlib
import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark.runs import folder as store

State = Mapping[str, Tensor]


class DamagedFile(Exception):
    """A file is not as torch.save wrote it."""


def load_weights(path: Path, device: str = "cpu") -> dict[str, Any]:
    """The dictionary in a file that a run has written. Raises DamagedFile where it is not whole, or another file."""
    content = None
    if is_intact(path):
        with contextlib.suppress(Exception):  # see `_read`
            content = torch.load(path, map_location=device, weights_only=True)
    if not isinstance(content, dict):
        raise DamagedFile(f"{path} is damaged")
    return content


def save(path: Path, content: Any) -> None:
    """Write a file of torch.save atomically."""
    whole = io.BytesIO()  # torch.save itself does not say why a disk took no more
    torch.save(content, whole)
    with store.atomic(path) as f:
        f.write(whole.getbuffer())


def is_intact(path: Path) -> bool:
    """True where the parts of a zip file have the checksums it was written with; torch.load does not look at them."""
    try:
        with zipfile.ZipFile(path) as file:
            return file.testzip() is None
    except Exception:  # zipfile has BadZipFile, and raises much else
        return False


def content_hash(state: State) -> str:
    """SHA-256 (hex) over the names, types, shapes and values of a state dictionary, in the names' order.

    The same on every device and for every memory layout.
    """
    digest = hashlib.sha256()
    for key in sorted(state):
        tensor = state[key].detach().cpu().contiguous()
        digest.update(json.dumps([key, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
