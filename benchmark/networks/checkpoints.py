"""Files of torch.save: those that runs keep, and the checkpoints that a user brings.

Accepted of a user, with networks as they are here or as RepDistiller and mdistiller name them, are a plain state
dictionary, one under a usual key ("model", "state_dict", "net", …), and the state of a whole distiller (mdistiller's
"student.…" and "teacher.…"), each with the prefixes of DataParallel and torch.compile or without. Of several networks
in one file the one that fits is taken; where two unlike ones fit, the file is refused.
"""

import argparse
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmark.errors import UserError
from benchmark.networks import Network, build, names
from benchmark.runs.weights import content_hash, is_intact

State = Mapping[str, Tensor]
ZIP = b"PK\x03\x04"  # torch.save begins with, except in its old format
UNREADABLE = "not a readable checkpoint of torch.save; damaged, or of another kind"

_WRAPPERS = ("model", "state_dict", "model_state_dict", "net", "network", "weights")
_PARTS = ("student", "teacher", "model", "net", "network")  # attributes under which trainers keep a network
_PREFIXES = frozenset({"module", "_orig_mod"})  # of DataParallel and torch.compile; no layer is called so
_HEADS = ("fc", "linear", "classifier", "classifier.0")  # the classifiers of the registered networks
_NUMPY_SCALAR = np.float64(0).__reduce__()[0]
# What RepDistiller keeps beside the weights and weights-only loading does not know: accuracies as NumPy scalars (under
# NumPy 1 from another module) and the command line's options. None of it can run code.
_HARMLESS = [
    argparse.Namespace,
    np.dtype,
    *{type(np.dtype(code)) for code in np.typecodes["AllInteger"] + np.typecodes["Float"] + "?"},
    (_NUMPY_SCALAR, "numpy.core.multiarray.scalar"),
    (_NUMPY_SCALAR, "numpy._core.multiarray.scalar"),
]


def load_foreign(path: Path, network: Network, name: str) -> None:
    """Load the weights in `path` into `network`, whose architecture is called `name`; strictly, or not at all.

    Raises UserError, and leaves the network as it is, where the file is missing or unreadable, needs more than
    weights-only loading, holds no state dictionary, another architecture, another class count, two different networks
    that both fit, or weights that are not finite.
    """
    found = _networks_in(_read(path))
    if not found:
        raise UserError(
            f"{path}: holds no state dictionary; expected is torch.save(model.state_dict(), …), or one under 'model'"
        )
    own = network.state_dict()
    fitting = {where: state for where, state in found.items() if not _misfits(state, own)}
    if not fitting:
        raise UserError(f"{path}: {_why_not(found, own, name)}")
    if len(fitting) > 1 and len({content_hash(state) for state in fitting.values()}) > 1:
        raise UserError(
            f"{path}: holds {len(fitting)} different networks that fit {name} ({'; '.join(fitting)}); "
            "save the one that is meant alone"
        )
    state = next(iter(fitting.values()))
    for key, tensor in state.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise UserError(f"{path}: '{key}' holds values that are not finite; the training it is from has diverged")
    network.load_state_dict(dict(state), strict=True)


def _read(path: Path) -> Any:
    """The object in a file written by torch.save, on the CPU, read without running any code of it."""
    try:
        with open(path, "rb") as file, torch.serialization.safe_globals(_HARMLESS), warnings.catch_warnings():
            if file.read(4) == ZIP and not is_intact(path):
                raise UserError(f"{path}: {UNREADABLE}")
            file.seek(0)
            warnings.simplefilter("ignore")  # of torch, beside the line that is said here
            try:
                return torch.load(file, map_location="cpu", weights_only=True)
            except Exception as error:  # torch.load has no exception of its own: a bad file raises almost anything
                raise UserError(f"{path}: {_why_unreadable(error)}") from None
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint") from None
    except OSError as error:
        raise UserError(f"{path}: the checkpoint cannot be opened ({error.strerror})") from None


def _why_unreadable(error: Exception) -> str:
    named = re.search(r"Unsupported (?:global: GLOBAL|class) ([\w.]+)", str(error))
    if isinstance(error, pickle.UnpicklingError) and named:
        return (
            f"holds a Python object ({named[1]}), which weights-only loading refuses; "
            "save the weights alone with torch.save(model.state_dict(), …)"
        )
    return UNREADABLE


def _networks_in(content: Any) -> dict[str, dict[str, Tensor]]:
    """The state dictionaries in a checkpoint, their prefixes removed, by where each was found."""
    if not isinstance(content, Mapping):
        return {}
    outer = {"the file": content} | {f"'{w}'": content[w] for w in _WRAPPERS if w in content}
    found: dict[str, dict[str, Tensor]] = {}
    for where, value in outer.items():
        if not _is_state(value):
            continue
        state = {".".join(p for p in key.split(".") if p not in _PREFIXES): tensor for key, tensor in value.items()}
        if len(state) < len(value):
            continue  # the same weights with and without a prefix: not one network's state
        inner = {
            f"{where}, {part}": {k.removeprefix(f"{part}."): t for k, t in state.items() if k.startswith(f"{part}.")}
            for part in _PARTS
        }
        found |= {part: state for part, state in inner.items() if state} or {where: state}
    return found


def _is_state(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(k, str) and isinstance(t, Tensor) for k, t in value.items())
    )


def _misfits(state: State, own: State) -> list[str]:
    """The names that are missing, unexpected, or of another shape or kind of number."""

    def kind(tensor: Tensor) -> tuple:
        return tensor.shape, tensor.layout, tensor.is_floating_point()

    unlike = {k for k in state.keys() & own.keys() if kind(state[k]) != kind(own[k])}
    return sorted((state.keys() ^ own.keys()) | unlike)


def _why_not(found: Mapping[str, State], own: State, name: str) -> str:
    """Why none of the networks found fits: another class count, another architecture, or the first differences."""
    classes = _classes(own)
    for state in found.values():
        held = _classes(state)
        if held is not None and held != classes and _is(name, state, held):
            return f"has {held} classes, this data set has {classes}"
    for state in found.values():
        if other := _architecture(state):
            return f"holds {other} with {_classes(state)} classes, not {name}"
    state = max(found.values(), key=lambda s: len(s.keys() & own.keys()))
    shapes = [k for k in _misfits(state, own) if k in state and k in own]
    parts = [
        _few("missing", sorted(own.keys() - state.keys())),
        _few("unexpected", sorted(state.keys() - own.keys())),
        _few("of another shape or type", shapes),
    ]
    return f"fits neither {name} nor another network of this benchmark: {'; '.join(p for p in parts if p)}"


def _few(what: str, keys: list[str]) -> str:
    more = ", …" if len(keys) > 2 else ""
    return f"{len(keys)} {what} ({', '.join(keys[:2])}{more})" if keys else ""


def _head(state: State) -> Tensor | None:
    """The classifier's weight [C, D]; None where no known classifier is in `state`."""
    weights = (state.get(f"{head}.weight") for head in _HEADS)
    return next((w for w in weights if w is not None and w.ndim == 2 and w.numel()), None)


def _classes(state: State) -> int | None:
    """The number of classes by the classifier's weight."""
    head = _head(state)
    return None if head is None else head.shape[0]


def _is(name: str, state: State, classes: int) -> bool:
    """True where `state` fits the registered network `name` with `classes` classes."""
    with torch.device("meta"):
        return not _misfits(state, build(name, classes).state_dict())


def _architecture(state: State) -> str | None:
    """The registered network that `state` fits, for its own class count; None where there is none."""
    head = _head(state)
    if head is None:
        return None
    classes, pooled = head.shape
    return next((name for name in _guesses(state, pooled) if _is(name, state, classes)), None)


def _guesses(state: State, pooled: int) -> list[str]:
    """Networks that `state` may be of: by the depth and width it shows for resnet and wrn, else the usual names."""

    def blocks(pattern: str) -> int:
        return sum(re.fullmatch(pattern, key) is not None for key in state)

    if n := blocks(r"block1\.layer\.\d+\.conv1\.weight"):
        return [f"wrn{6 * n + 4}_{pooled // 64}"] if pooled >= 64 else []
    if "fc.weight" in state and (n := blocks(r"layer1\.\d+\.conv1\.weight")):
        return [f"resnet{6 * n + 2}{'x4' if pooled == 256 else ''}"]
    return [name for name in names() if not re.match(r"resnet\d|wrn\d", name)]
