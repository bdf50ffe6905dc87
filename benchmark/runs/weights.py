"""Weights and outputs that runs keep: written atomically, checked on reading, identified by their content."""

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmark.runs import folder as store
from benchmark.runs.folder import RunFolder
from benchmark.runs.reading import open_file

State = Mapping[str, Tensor]


class DamagedFile(Exception):
    """Raised for a file that is incomplete, changed, or not what its reader expects."""


def load_weights(path: Path, device: str = "cpu") -> dict[str, Any]:
    """Return the dictionary in a file that `save` has written.

    Raises DamagedFile where the file is missing or damaged, PermissionError where it may not be read.
    """
    content = None
    try:
        with open_file(path) as file:
            if is_intact(path):
                content = torch.load(file, map_location=device, weights_only=True)
    except PermissionError:
        raise
    except OSError as e:
        raise DamagedFile(f"{path} cannot be read: {e.strerror}") from e
    except Exception:  # torch.load raises many kinds of errors for a broken file
        content = None
    if not isinstance(content, dict):
        raise DamagedFile(f"{path} is damaged")
    return content


def load_recorded_weights(folder: RunFolder, sha256: str | None) -> dict[str, Tensor]:
    """Return the weights in a run folder. Raises DamagedFile where they do not have the recorded hash."""
    weights = load_weights(folder.weights)
    if content_hash(weights) != sha256:
        raise DamagedFile(f"{folder.weights} is not what the run has recorded")
    return weights


def recorded_classes(folder: RunFolder) -> tuple[int, list[str]]:
    """Return the number and the names of the classes of a run's data set, which its test outputs hold.

    Raises DamagedFile where they cannot be read.
    """
    try:
        with np.load(folder.test_outputs) as saved:
            return saved["logits"].shape[1], [str(name) for name in saved["class_names"]]
    except (OSError, ValueError, KeyError, EOFError) as e:
        raise DamagedFile(f"{folder.test_outputs} is missing or damaged") from e


def save(path: Path, content: Any) -> None:
    """Write a file of torch.save atomically."""
    buffer = io.BytesIO()  # writing to the disk directly, torch.save would hide the reason of a failure
    torch.save(content, buffer)
    with store.atomic(path) as f:
        f.write(buffer.getbuffer())


def save_outputs(folder: RunFolder, weights: State, logits: Tensor, labels: Tensor, class_names: Sequence[str]) -> None:
    """Write a network's weights, and its test logits [N, C] with the labels [N] and the names of the classes."""
    save(folder.weights, dict(weights))
    with store.atomic(folder.test_outputs) as f:
        np.savez_compressed(f, logits=logits.cpu().numpy(), labels=labels.numpy(), class_names=np.array(class_names))


def is_intact(path: Path) -> bool:
    """Return whether the parts of a zip file match their stored checksums, which torch.load ignores."""
    try:
        with zipfile.ZipFile(path) as file:
            return file.testzip() is None
    except Exception:  # zipfile raises many kinds of errors for a broken file
        return False


def content_hash(state: State) -> str:
    """Return the SHA-256 (hex) over the names, types, shapes and values of a state dictionary, sorted by name.

    It is the same on every device and for every memory layout.
    """
    digest = hashlib.sha256()
    for key in sorted(state):
        tensor = state[key].detach().cpu().contiguous()
        digest.update(json.dumps([key, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
