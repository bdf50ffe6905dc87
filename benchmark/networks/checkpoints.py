"""Import of a user's checkpoints, written by torch.save.

Accepted are a plain state dictionary, one under a usual key ("model", "state_dict", "net", …), and the state of a whole
distiller (mdistiller's "student.…" and "teacher.…"), each with or without the prefixes of DataParallel and
torch.compile; and a .safetensors file of weights. Layer names are those of RepDistiller and mdistiller, and for timm's
networks those of timm, which torchvision's ResNets share. If a file holds several networks, the one that fits
is loaded; a file with two different networks that fit is rejected.
"""

import argparse
import importlib.util
import pickle
import re
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmark.errors import UserError
from benchmark.networks import Network, build, names
from benchmark.runs.reading import open_file
from benchmark.runs.weights import content_hash, is_intact

StateDict = Mapping[str, Tensor]
ZIP_SIGNATURE = b"PK\x03\x04"  # first bytes of torch.save's format, except its old one
UNREADABLE = "not a readable checkpoint of torch.save; damaged, or of another format"
WITHOUT_CHECKSUMS = "torch's older format has no checksums, so damage can go unnoticed: save it again with torch.save"
_WRAPPER_KEYS = ("model", "state_dict", "model_state_dict", "net", "network", "weights")
_NETWORK_ATTRIBUTES = ("student", "teacher", "model", "net", "network")  # under which trainers keep a network
_PREFIXES = frozenset({"module", "_orig_mod"})  # of DataParallel and torch.compile; no layer has these names
_CLASSIFIERS = ("fc", "linear", "classifier", "classifier.0", "head", "head.fc")  # of our networks and timm's
_NUMPY_SCALAR = np.float64(0).__reduce__()[0]
# RepDistiller saves accuracies as NumPy scalars (of another module under NumPy 1) and the command line's options with
# the weights. Weights-only loading rejects these types by default; none of them can run code.
_SAFE_GLOBALS = [
    argparse.Namespace,
    np.dtype,
    *{type(np.dtype(code)) for code in np.typecodes["AllInteger"] + np.typecodes["Float"] + "?"},
    (_NUMPY_SCALAR, "numpy.core.multiarray.scalar"),
    (_NUMPY_SCALAR, "numpy._core.multiarray.scalar"),
]


def load_foreign(path: Path, network: Network, name: str) -> None:
    """Load a user's checkpoint into `network`, whose architecture is called `name`, strictly.

    Raises UserError and leaves the network unchanged where the file is missing or unreadable, needs more than
    weights-only loading, holds no state dictionary, another architecture, another number of classes, two different
    networks that fit, or weights that are not finite.
    """
    candidates = _find_networks(_read(path))
    if not candidates:
        raise UserError(
            f"{path}: holds no state dictionary; expected torch.save(model.state_dict(), …), or one under 'model'"
        )
    expected = network.foreign_module.state_dict()
    fitting = {location: state for location, state in candidates.items() if not _mismatches(state, expected)}
    if not fitting:
        raise UserError(f"{path}: {_explain_mismatch(candidates, network, name)}")
    if len(fitting) > 1 and len({content_hash(state) for state in fitting.values()}) > 1:
        raise UserError(
            f"{path}: holds {len(fitting)} different networks that fit {name} ({'; '.join(fitting)}); "
            "save only one of them"
        )
    state = next(iter(fitting.values()))
    for key, tensor in state.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise UserError(f"{path}: '{key}' holds values that are not finite; its training has diverged")
    network.foreign_module.load_state_dict(dict(state), strict=True)


def _read(path: Path) -> Any:
    """Read the object in a file of torch.save or safetensors onto the CPU, without running code from the file."""
    if path.suffix == ".safetensors" and path.is_file():
        return _read_safetensors(path)
    try:
        with open_file(path) as file, torch.serialization.safe_globals(_SAFE_GLOBALS), warnings.catch_warnings():
            is_zip = file.read(4) == ZIP_SIGNATURE
            if is_zip and not is_intact(path):
                raise UserError(f"{path}: {UNREADABLE}")
            file.seek(0)
            warnings.simplefilter("ignore")  # torch's warnings repeat the error below
            try:
                content = torch.load(file, map_location="cpu", weights_only=True)
            except Exception as error:  # torch.load raises almost anything for a malformed file
                raise UserError(f"{path}: {_explain_unreadable(error)}") from None
        if not is_zip:
            print(f"{path}: {WITHOUT_CHECKSUMS}", file=sys.stderr)
        return content
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint") from None
    except OSError as error:
        raise UserError(f"{path}: the checkpoint cannot be opened ({error.strerror})") from None


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    if importlib.util.find_spec("safetensors") is None:
        raise UserError(f"{path}: reading it takes safetensors, which is not installed: pip install safetensors")
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: not a readable .safetensors file ({' '.join(str(error).split())})") from None


def _explain_unreadable(error: Exception) -> str:
    unsafe = re.search(r"Unsupported (?:global: GLOBAL|class) ([\w.]+)", str(error))
    if isinstance(error, pickle.UnpicklingError) and unsafe:
        return (
            f"holds a Python object ({unsafe[1]}), which weights-only loading rejects; "
            "save only the weights with torch.save(model.state_dict(), …)"
        )
    return UNREADABLE


# ------------------------------------------------------------ networks in a file


def _find_networks(content: Any) -> dict[str, dict[str, Tensor]]:
    """Return the state dictionaries in a checkpoint, without prefixes, by their location in the file."""
    if not isinstance(content, Mapping):
        return {}
    values = {"the file": content} | {f"'{key}'": content[key] for key in _WRAPPER_KEYS if key in content}
    states: dict[str, dict[str, Tensor]] = {}
    for location, value in values.items():
        if not _is_state_dict(value):
            continue
        state = {".".join(p for p in key.split(".") if p not in _PREFIXES): tensor for key, tensor in value.items()}
        if len(state) < len(value):
            continue  # equal keys after the prefixes are removed: not the state of one network
        parts = {
            f"{location}, {attribute}": {
                key.removeprefix(f"{attribute}."): tensor
                for key, tensor in state.items()
                if key.startswith(f"{attribute}.")
            }
            for attribute in _NETWORK_ATTRIBUTES
        }
        states |= {part: part_state for part, part_state in parts.items() if part_state} or {location: state}
    return states


def _is_state_dict(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in value.items())
    )


# ------------------------------------------------------------ mismatches


def _mismatches(state: StateDict, expected: StateDict) -> list[str]:
    """Return the names that are missing, unexpected, or of another shape, layout or kind of number."""

    def form(tensor: Tensor) -> tuple[Any, ...]:
        return tensor.shape, tensor.layout, tensor.is_floating_point()

    different = {key for key in state.keys() & expected.keys() if form(state[key]) != form(expected[key])}
    return sorted((state.keys() ^ expected.keys()) | different)


def _explain_mismatch(candidates: Mapping[str, StateDict], network: Network, name: str) -> str:
    """Explain why no candidate fits: another number of classes, another architecture, or the first differences."""
    expected, size = network.foreign_module.state_dict(), network.image_size
    classes = _count_classes(expected)
    for state in candidates.values():
        candidate_classes = _count_classes(state)
        if (
            candidate_classes is not None
            and candidate_classes != classes
            and _fits(name, state, candidate_classes, size)
        ):
            return f"has {candidate_classes} classes, this data set has {classes}"
    for state in candidates.values():
        if architecture := _identify(state):
            return f"holds {architecture} with {_count_classes(state)} classes, not {name}"
    state = max(candidates.values(), key=lambda candidate: len(candidate.keys() & expected.keys()))
    different = [key for key in _mismatches(state, expected) if key in state and key in expected]
    differences = [
        _summarize("missing", sorted(expected.keys() - state.keys())),
        _summarize("unexpected", sorted(state.keys() - expected.keys())),
        _summarize("of another shape or type", different),
    ]
    return f"fits neither {name} nor another network of this benchmark: {'; '.join(filter(None, differences))}"


def _summarize(kind: str, keys: list[str]) -> str:
    more = ", …" if len(keys) > 2 else ""
    return f"{len(keys)} {kind} ({', '.join(keys[:2])}{more})" if keys else ""


def _classifier_weight(state: StateDict) -> Tensor | None:
    """Return the classifier's weight [C, D]; None where `state` has none of the registered classifiers."""
    weights = (state.get(f"{classifier}.weight") for classifier in _CLASSIFIERS)
    return next((w for w in weights if w is not None and w.ndim == 2 and w.numel()), None)


def _count_classes(state: StateDict) -> int | None:
    weight = _classifier_weight(state)
    return None if weight is None else weight.shape[0]


def _fits(name: str, state: StateDict, classes: int, image_size: int | None = None) -> bool:
    """Return True if `state` fits the registered network `name` with `classes` classes."""
    with torch.device("meta"):
        return not _mismatches(state, build(name, classes, image_size).foreign_module.state_dict())


def _identify(state: StateDict) -> str | None:
    """Return the registered network that `state` fits with its own number of classes; None where there is none."""
    weight = _classifier_weight(state)
    if weight is None:
        return None
    classes, pooled = weight.shape
    return next((name for name in _possible_names(state, pooled) if _fits(name, state, classes)), None)


def _possible_names(state: StateDict, pooled: int) -> list[str]:
    """Return the networks that `state` may belong to: for resnet and wrn by depth and width, otherwise all others."""

    def count_blocks(pattern: str) -> int:
        return sum(re.fullmatch(pattern, key) is not None for key in state)

    if n := count_blocks(r"block1\.layer\.\d+\.conv1\.weight"):
        return [f"wrn{6 * n + 4}_{pooled // 64}"] if pooled >= 64 else []
    if "fc.weight" in state and (n := count_blocks(r"layer1\.\d+\.conv1\.weight")):
        return [f"resnet{6 * n + 2}{'x4' if pooled == 256 else ''}"]
    if "conv_stem.weight" in state:  # named as by timm
        return ["MobileNetV1"] if importlib.util.find_spec("timm") else []
    return [name for name in names() if name != "MobileNetV1" and not re.match(r"resnet\d|wrn\d", name)]
