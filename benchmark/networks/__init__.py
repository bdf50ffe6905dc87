"""The registry: the field's networks by their usual names.

    resnet<6n+2>, resnet<6n+2>x4     wrn<6n+4>_<width>     vgg8, 11, 13, 16, 19
    MobileNetV2 (half width)         ShuffleV1, ShuffleV2  ResNet18, 34, 50, 101 (ImageNet form)
    MobileNetV1                      timm/<name>: any network of timm

Case and underscores are ignored (wrn_40_2, mobilenetv2). `resnet50` is ResNet50, as in the field, though 50 is also
6n+2. The ResNets have the 3×3 stem of the field's CIFAR tables for images below 128 px, and from there on the stem of
its ImageNet tables: they are timm's resnet18, 34, 50 and 101 then. MobileNetV1 is timm's mobilenetv1_100.
"""

import functools
import importlib.util
import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

from benchmark.errors import UserError, nearest
from benchmark.interruption import defer_interruptions
from benchmark.networks import custom
from benchmark.networks.base import LOGITS, TIMM, Network, batch_norm_parameters, check_image_size, meta_shapes, shapes
from benchmark.networks.meta import ShapesOnly
from benchmark.networks.mobilenet import MobileNetV2
from benchmark.networks.resnet import BasicBlock, Bottleneck, CifarResNet, ImageNetResNet
from benchmark.networks.shufflenet import ShuffleV1, ShuffleV2
from benchmark.networks.vgg import CONVOLUTIONS, VGG
from benchmark.networks.wrn import WideResNet
from methods.contract import Needs, Shapes

__all__ = [
    "Network", "add_custom", "batch_norm_parameters", "build", "build_pretrained", "canonical", "custom_identity",
    "imagenet_pair", "is_light", "multiplications", "names", "output_shapes", "shapes", "split_pair", "state_size",
]  # fmt: skip

_LIGHT_NETWORKS = ("MobileNetV2", "ShuffleV1", "ShuffleV2")
_FIXED_NETWORKS: dict[str, Callable[[int], Network]] = {
    "MobileNetV2": MobileNetV2,
    "ShuffleV1": ShuffleV1,
    "ShuffleV2": ShuffleV2,
    "ResNet18": lambda classes: ImageNetResNet(BasicBlock, (2, 2, 2, 2), classes),
    "ResNet34": lambda classes: ImageNetResNet(BasicBlock, (3, 4, 6, 3), classes),
    "ResNet50": lambda classes: ImageNetResNet(Bottleneck, (3, 4, 6, 3), classes),
    "ResNet101": lambda classes: ImageNetResNet(Bottleneck, (3, 4, 23, 3), classes),
}
# The names of the field's ImageNet tables that the networks of timm have
IMAGENET_SIZE = 128  # px; smaller images have the stem of the CIFAR tables
_IMAGENET_NETWORKS = {f"ResNet{depth}": f"timm/resnet{depth}" for depth in (18, 34, 50, 101)}
TORCHVISION_TAG = ".tv_in1k"  # timm's name of torchvision's first weights
_TIMM_NETWORKS = {"MobileNetV1": "timm/mobilenetv1_100"}
_ALIASES = {"mobilehalf": "MobileNetV2", "shufflenetv1": "ShuffleV1", "shufflenetv2": "ShuffleV2"}
_FIXED_BY_SPELLING = {name.lower(): name for name in (*_FIXED_NETWORKS, *_TIMM_NETWORKS)} | _ALIASES
_RESNET = re.compile(r"resnet_?([1-9]\d*)(x4)?")
_WRN = re.compile(r"wrn_?([1-9]\d*)_([1-9]\d*)")
MAX_DEPTH = 1202  # of the deepest published CIFAR ResNet; a deeper one is a typing mistake
MAX_WIDTH = 64  # likewise, of a wide ResNet
_VGG = re.compile(r"vgg_?([1-9]\d*)")


def names() -> list[str]:
    """Return the usual names, for messages; other depths and widths of resnet and wrn can be built as well."""
    resnets = [f"resnet{d}" for d in (8, 14, 20, 32, 44, 56, 110)] + ["resnet8x4", "resnet32x4"]
    wrns = [f"wrn{d}_{w}" for d in (16, 40) for w in (1, 2)]
    return [*resnets, *wrns, *(f"vgg{d}" for d in CONVOLUTIONS), *_FIXED_NETWORKS, *_TIMM_NETWORKS]


def canonical(name: str) -> str:
    """Return the canonical name of a network for any accepted spelling.

    Raises UserError for an unknown network, with the nearest names or depths.
    """
    if custom.find(name):
        return name
    key = name.lower()
    if key.startswith(TIMM):
        return _timm_networks(name).canonical(name)
    if fixed := _FIXED_BY_SPELLING.get(key.replace("_", "")):
        return fixed
    if m := _RESNET.fullmatch(key):
        return f"resnet{_check_depth(name, int(m[1]), 2, 'resnet', m[2] or '')}{m[2] or ''}"
    if m := _WRN.fullmatch(key):
        if int(m[2]) > MAX_WIDTH:
            raise UserError(f"network '{name}': the width must be at most {MAX_WIDTH}")
        return f"wrn{_check_depth(name, int(m[1]), 4, 'wrn', f'_{m[2]}')}_{m[2]}"
    if (m := _VGG.fullmatch(key)) and int(m[1]) in CONVOLUTIONS:
        return f"vgg{m[1]}"
    raise UserError(f"unknown network '{name}'{nearest(name, names())}")


def _check_depth(name: str, depth: int, remainder: int, prefix: str, suffix: str) -> int:
    """Return the depth if it is 6n + `remainder` with n > 0 and at most MAX_DEPTH, else raise a UserError."""
    if depth > MAX_DEPTH:
        raise UserError(f"network '{name}': the depth must be at most {MAX_DEPTH}")
    if depth > remainder and (depth - remainder) % 6 == 0:
        return depth
    near = 6 * max(1, round((depth - remainder) / 6)) + remainder
    raise UserError(
        f"network '{name}': the depth must be 6n+{remainder} with n of 1 or more; did you mean {prefix}{near}{suffix}?"
    )


def build(name: str, classes: int, image_size: int | None = None) -> Network:
    """Build a network with fresh weights, drawn from the global generator of the default device.

    image_size: pixels a side, on which some networks depend: those with ImageNet's names have another stem for large
    images, and transformers a position for each patch. None: a small image, and timm's own size. Raises UserError for
    an unknown network, and for one that cannot be made for the size.
    """
    if own := custom.find(name):
        return custom.TappedNetwork(name, own.build(classes, image_size), own)
    requested = canonical(name)
    name = _timm_name(requested, image_size)
    if name.startswith(TIMM):
        return _timm_networks(requested).TimmNetwork(name, classes, image_size)
    if name in _FIXED_NETWORKS:
        return _FIXED_NETWORKS[name](classes)
    if m := _RESNET.fullmatch(name):
        return CifarResNet(int(m[1]), (32, 64, 128, 256) if m[2] else (16, 16, 32, 64), classes)
    if m := _WRN.fullmatch(name):
        return WideResNet(int(m[1]), int(m[2]), classes)
    return VGG(CONVOLUTIONS[int(name.removeprefix("vgg"))], classes)


def build_pretrained(name: str, classes: int, image_size: int) -> tuple[Network, list[float], list[float]]:
    """Build a network of timm with timm's weights; return it with mean and std of the images that it was trained on.
    The ResNets of ImageNet's tables have the weights of torchvision, with which these tables were made.

    Raises UserError for a network that timm does not have, and as `timm_networks.create` does.
    """
    requested = canonical(name)
    timm_name = _timm_name(requested, image_size)
    if custom.find(name) or not timm_name.startswith(TIMM):
        raise UserError(f"teacher.pretrained: {name} is not a network of timm at {image_size} px: use timm/<name>")
    if requested in _IMAGENET_NETWORKS:
        timm_name += TORCHVISION_TAG
    adapter = _timm_networks(requested)
    network = adapter.TimmNetwork(timm_name, classes, image_size, pretrained=True)
    return network, *adapter.normalization(timm_name)


def _timm_networks(name: str) -> ModuleType:
    """Import the adapter for timm, which takes seconds. Raises UserError, for the network `name`, without timm."""
    if importlib.util.find_spec("timm") is None:
        raise UserError(f"network '{name}' is one of timm, which is not installed: pip install 'kd-benchmark[timm]'")
    return importlib.import_module("benchmark.networks.timm_networks")


def _timm_name(name: str, image_size: int | None) -> str:
    """Return `timm/<name>` for a network of ImageNet's tables, which may depend on the image size; else the name."""
    if image_size is not None and image_size >= IMAGENET_SIZE and name in _IMAGENET_NETWORKS:
        return _IMAGENET_NETWORKS[name]
    return _TIMM_NETWORKS.get(name, name)


@functools.cache
@defer_interruptions()  # torch imports its compiler for the first network
def multiplications(name: str, classes: int, image_size: int, needs: Needs = LOGITS) -> int:
    """Count the multiplications of one image's forward pass as deep as `needs` requires, on the meta device."""
    from torch.utils.flop_counter import FlopCounterMode  # slow to import, and a plan counts nothing

    with torch.device("meta"):
        network = build(name, classes, image_size).eval()
        with FlopCounterMode(display=False) as counter:
            network(torch.empty(1, 3, image_size, image_size), needs)
    return counter.get_total_flops() // 2


@functools.cache
def output_shapes(name: str, classes: int, image_size: int) -> Shapes:
    """Return the shapes of a network's outputs, from a build on the meta device."""
    check_image_size(image_size)
    with torch.device("meta"), ShapesOnly():
        return meta_shapes(_on_meta_device(name, classes, image_size), image_size)


@functools.cache
def state_size(name: str, classes: int, image_size: int | None = None) -> int:
    """Return the number of entries of a network's state, parameters and buffers, from a build on the meta device."""
    return sum(value.numel() for value in _on_meta_device(name, classes, image_size).state_dict().values())


@functools.cache
def _on_meta_device(name: str, classes: int, image_size: int | None) -> Network:
    """Build a network without values."""
    with torch.device("meta"), ShapesOnly():
        return build(name, classes, image_size)


def add_custom(name: str, network: custom.CustomNetwork) -> None:
    """Make a user's network known in this process. Raises UserError for a name that a network of this suite has."""
    custom.check_name(name)
    if custom.find(name) is None:
        try:
            existing = canonical(name)
        except UserError:
            existing = None
        if existing is not None:
            raise UserError(f"network.{name}: {existing} is a network of this suite; choose another name")
    custom.add(name, network)
    for cached in (multiplications, output_shapes, state_size, _on_meta_device):
        cached.cache_clear()


def custom_identity(*names: str) -> dict[str, dict[str, Any]]:
    """Return what the identity of runs holds of the user's own networks among these; empty where there are none."""
    return {name: own.identity() for name in names if (own := custom.find(name))}


def is_light(name: str) -> bool:
    """Return True for MobileNetV2, ShuffleV1 and ShuffleV2, which the field trains with a learning rate of 0.01."""
    return canonical(name) in _LIGHT_NETWORKS


def imagenet_pair(pair: str) -> str:
    """Return a pair under the names of ImageNet's tables: ResNet34-ResNet18 for timm/resnet34-timm/resnet18."""
    usual = {timm: name for name, timm in (_IMAGENET_NETWORKS | _TIMM_NETWORKS).items()}
    return "-".join(usual.get(name, name) for name in pair.split("-"))


def split_pair(pair: str) -> tuple[str, str]:
    """Return the canonical teacher and student of a pair such as wrn40_2-wrn16_2. Raises UserError for another form."""
    names_of_pair = pair.split("-")
    if len(names_of_pair) != 2 or not all(names_of_pair):
        raise UserError(
            f"pair '{pair}' is not <teacher>-<student> with one hyphen, such as wrn40_2-wrn16_2 or resnet32x4-resnet8x4"
        )
    teacher, student = names_of_pair
    return canonical(teacher), canonical(student)
