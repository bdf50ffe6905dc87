"""A user's own networks: any `nn.Module` from images [N, 3, H, W] to logits [N, C], by a function that builds it.

    network.<name>=package.module:function                    on the command line, or below `network:` in a YAML
    network.<name>.stages=[stem,layer1,layer2]                modules whose outputs are the stage maps; first the stem
    network.<name>.classifier=fc                              the linear layer whose input are the pooled features

The function is called with the number of classes, and with the image size where it takes a second argument. Logits
suffice for methods that read logits; methods that read what is not named are reported as unsupported.
"""

import copy
import functools
import hashlib
import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.errors import UserError
from benchmark.networks.base import LOGITS, Network
from benchmark.runs.record import TEACHERS
from methods.contract import Needs, Outputs

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.]*")
FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@dataclass(frozen=True)
class CustomNetwork:
    """How a user's network is built, and what is read of it by the paths of its modules.

    function: `package.module:function`; empty for a network that was given as an object. stages: of the stage maps,
    the first the stem. classifier: of the linear layer whose input are the pooled features. version: hash of what
    builds the network, part of a run's identity.
    """

    build: Callable[[int, int | None], nn.Module]
    version: str
    function: str = ""
    stages: tuple[str, ...] = ()
    classifier: str | None = None

    def identity(self) -> dict[str, Any]:
        """Return the part that belongs to the identity of runs with this network."""
        return {
            "function": self.function, "version": self.version, "stages": list(self.stages),
            "classifier": self.classifier,
        }  # fmt: skip


class TappedNetwork(Network):
    """A user's module behind the interface of this suite's networks.

    Raises UserError where it has no module of a path that is named.
    """

    def __init__(self, name: str, module: nn.Module, network: CustomNetwork) -> None:
        super().__init__()
        self.name, self.module = name, module
        self._paths, self._classifier = network.stages, network.classifier
        for path in (*network.stages, *([network.classifier] if network.classifier else [])):
            _submodule(name, module, path)
        if network.classifier and not isinstance(module.get_submodule(network.classifier), nn.Linear):
            raise UserError(f"network.{name}.classifier is {network.classifier}, which is no nn.Linear")
        self.stages = len(network.stages)
        missing = {"pre_activations", "last_map", "class_maps"}
        missing |= set() if self.stages else {"maps"}
        self.missing = frozenset(missing | (set() if network.classifier else {"pooled"}))

    @property
    def foreign_module(self) -> nn.Module:
        return self.module

    @property
    def head(self) -> nn.Linear:
        """The classifier. Raises TypeError where none is named."""
        if self._classifier is None:
            raise TypeError(f"network.{self.name} names no classifier")
        layer = self.module.get_submodule(self._classifier)
        assert isinstance(layer, nn.Linear)
        return layer

    def forward(self, x: Tensor, needs: Needs = LOGITS) -> Outputs:
        """Return the outputs that `needs` names for images `x` [N, 3, H, W]; the whole module runs.

        Raises TypeError where the module or a stage returns something else than logits [N, C] and maps [N, C, H, W].
        """
        self.check_provided(needs)
        kept: dict[str, Tensor] = {}
        handles = [self._keep_output(self._paths[k], kept) for k in sorted(needs.maps)]
        if needs.pooled:
            handles.append(self.head.register_forward_pre_hook(lambda _, inputs: kept.update(pooled=inputs[0])))
        try:
            logits = self.module(x)
        finally:
            for handle in handles:
                handle.remove()
        if not isinstance(logits, Tensor) or logits.dim() != 2:
            raise TypeError(f"network {self.name} must return logits [N, C], not {_form(logits)}")
        maps = {k: kept[self._paths[k]] for k in needs.maps}
        for k, value in maps.items():
            if not isinstance(value, Tensor) or value.dim() != 4:
                raise TypeError(
                    f"stage {self._paths[k]} of network {self.name} must return [N, C, H, W], not {_form(value)}"
                )
        outputs = Outputs(maps=maps)
        if needs.logits:
            outputs.logits = logits
        if needs.pooled:
            outputs.pooled = kept["pooled"]
        return outputs

    def _keep_output(self, path: str, kept: dict[str, Any]) -> Any:
        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            kept[path] = output

        return self.module.get_submodule(path).register_forward_hook(keep)


_NETWORKS: dict[str, CustomNetwork] = {}  # by name; filled by commands, by runs in other processes and by `distill`


def find(name: str) -> CustomNetwork | None:
    """Return the custom network of a name; None where there is none."""
    return _NETWORKS.get(name)


def add(name: str, network: CustomNetwork) -> None:
    """Make a custom network known in this process by a name."""
    _NETWORKS[name] = network


def check_name(name: str) -> None:
    """Raise UserError for a name that cannot be part of a pair and of a folder."""
    if not NAME.fullmatch(name):
        raise UserError(f"network.{name}: a name has letters, digits, _ and ., the first a letter")
    if name == TEACHERS:
        raise UserError(f"network.{name}: a folder of the runs has this name; choose another one")


def from_function(
    name: str, function: str, stages: tuple[str, ...] = (), classifier: str | None = None
) -> CustomNetwork:
    """Return the custom network that `package.module:function` builds. Raises UserError where it cannot be imported."""
    if not FUNCTION.fullmatch(function):
        raise UserError(f"network.{name} is {function!r}: write package.module:function, which builds the network")
    module_name, _, function_name = function.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # a user's files lie beside the command, which pip installed elsewhere
    try:
        module = importlib.import_module(module_name)
    except Exception as e:  # a user's own file may raise anything while it is imported
        raise UserError(f"network.{name}: {module_name} cannot be imported: {type(e).__name__}: {e}") from e
    builder = getattr(module, function_name, None)
    if not callable(builder):
        raise UserError(f"network.{name}: {module_name} has no function {function_name}")
    takes_size = len(inspect.signature(builder).parameters) > 1

    def build(classes: int, image_size: int | None) -> nn.Module:
        network = builder(classes, image_size) if takes_size else builder(classes)
        if not isinstance(network, nn.Module):
            raise UserError(f"network.{name}: {function} must return an nn.Module, not {type(network).__name__}")
        return network

    return CustomNetwork(build, _version(module), function, stages, classifier)


@functools.cache
def _version(module: ModuleType) -> str:
    """Return the hash of a module's file, read once, since the module is imported once."""
    file = inspect.getsourcefile(module)
    return hashlib.sha256(Path(file).read_bytes() if file else module.__name__.encode()).hexdigest()[:12]


def from_module(module: nn.Module, stages: tuple[str, ...] = (), classifier: str | None = None) -> CustomNetwork:
    """Return the custom network of which `module` is an example: each build is a copy with its weights."""
    digest = hashlib.sha256(str(module).encode())
    for key, value in sorted(module.state_dict().items()):
        digest.update(f"{key} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())

    def build(classes: int, image_size: int | None) -> nn.Module:
        twin = copy.deepcopy(module)
        return twin.to("meta") if torch.get_default_device().type == "meta" else twin.cpu()

    return CustomNetwork(build, digest.hexdigest()[:12], "", stages, classifier)


def add_all(networks: Mapping[str, Mapping[str, Any]]) -> None:
    """Make the custom networks of a run's config known in this process.

    networks: by name, what `CustomNetwork.identity` returned. Raises UserError as `from_function` does, where the file
    of a function has changed, and for a network that was given as an object to another process.
    """
    for name, identity in networks.items():
        if (existing := find(name)) is not None and existing.identity() == dict(identity):
            continue
        if not identity["function"]:
            raise UserError(f"network {name} was given to `distill` as an object, which another process cannot build")
        network = from_function(name, identity["function"], tuple(identity["stages"]), identity["classifier"])
        if network.version != identity["version"]:
            raise UserError(f"network.{name}: the file of {network.function} has changed since the run was planned")
        add(name, network)


def _submodule(name: str, module: nn.Module, path: str) -> nn.Module:
    try:
        return module.get_submodule(path)
    except AttributeError:
        children = ", ".join(path for path, _ in module.named_children())
        raise UserError(f"network {name} has no module {path!r}; its first level: {children}") from None


def _form(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__
